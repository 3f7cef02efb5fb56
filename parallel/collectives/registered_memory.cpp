#include "parallel/collectives/registered_memory.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <utility>

#include "core/error.h"

namespace olmoe {

at::Tensor BufferRegistry::allocate(int64_t bytes, c10::Device device) {
  ENSURE(bytes >= 0, "{}.allocate: {} bytes", group_, bytes);
  return do_allocate(bytes, device);
}

void BufferRegistry::register_buffer(const at::Tensor& buffer) {
  ENSURE(buffer.defined(), "{}.register_buffer: undefined tensor", group_);
  ENSURE(buffer.is_contiguous(), "{}.register_buffer: a tensor of sizes {} and strides {} is not contiguous", group_,
         fmt::join(buffer.sizes(), "x"), fmt::join(buffer.strides(), ","));
  do_register_buffer(buffer);
}

at::Tensor BufferRegistry::do_allocate(int64_t bytes, c10::Device device) {
  return at::zeros({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
}

RegisteredMemory::RegisteredMemory(void* data, size_t size_bytes, Free free)
    : data_(data), size_bytes_(size_bytes), free_(std::move(free)) {}

RegisteredMemory::~RegisteredMemory() {
  if (std::uncaught_exceptions() > exceptions_) return;
  for (const auto& [group, handle] : registrations_)
    if (const auto registrar = group.lock(); registrar && handle != nullptr) registrar->deregister(handle);
  free_(data_);
}

void RegisteredMemory::destroy(void* memory) { delete static_cast<RegisteredMemory*>(memory); }

at::Tensor RegisteredMemory::wrap(void* data, int64_t size_bytes, c10::Device device, Free free) {
  auto* const memory = new RegisteredMemory(data, static_cast<size_t>(size_bytes), std::move(free));
  return at::for_blob(data, {size_bytes})
      .context(memory, &destroy)  // owns it
      .options(at::TensorOptions().dtype(at::kByte).device(device))
      .target_device(device)
      .make_tensor();
}

RegisteredMemory* RegisteredMemory::of(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().cast_context<RegisteredMemory>(&destroy);
}

void RegisteredMemory::register_with(const std::shared_ptr<Registrar>& registrar) {
  registrations_.push_back({registrar, nullptr});
  registrations_.back().handle = registrar->register_buffer(data_, size_bytes_);
}

}  // namespace olmoe
