#include "parallel/collectives/registered_memory.h"

#include <ATen/ops/from_blob.h>

#include <utility>

namespace olmoe {

RegisteredMemory::RegisteredMemory(void* data, size_t size_bytes, Free free)
    : data_(data), size_bytes_(size_bytes), free_(std::move(free)) {}

RegisteredMemory::~RegisteredMemory() {
  if (std::uncaught_exceptions() > exceptions_) return;
  for (const auto& told : told_)
    if (const auto registrar = told.registrar.lock(); registrar && told.handle != nullptr)
      registrar->forget(told.handle);
  free_(data_);
}

void RegisteredMemory::destroy(void* memory) { delete static_cast<RegisteredMemory*>(memory); }

at::Tensor RegisteredMemory::wrap(void* data, int64_t size_bytes, c10::Device device, Free free) {
  auto* const memory = new RegisteredMemory(data, static_cast<size_t>(size_bytes), std::move(free));
  return at::for_blob(data, {size_bytes})
      .context(memory, &destroy)  // takes it over
      .options(at::TensorOptions().dtype(at::kByte).device(device))
      .target_device(device)
      .make_tensor();
}

RegisteredMemory* RegisteredMemory::of(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().cast_context<RegisteredMemory>(&destroy);
}

void RegisteredMemory::tell(const std::shared_ptr<Registrar>& registrar) {
  told_.push_back({registrar, nullptr});
  told_.back().handle = registrar->remember(data_, size_bytes_);
}

}  // namespace olmoe
