// LibTorch's device `cuda:0` in a program without CUDA: its memory is the emulated GPU's, and its operators are those
// of the CPU on the same bytes. Tensors on it report a GPU, so that the project's code and tests run unchanged.
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "emulation/global_memory.h"

namespace at {
namespace {

/// LibTorch instantiates the class of this name when it first needs CUDA.
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace
}  // namespace at

namespace emulation {
namespace {

const c10::Device kGpu(c10::kCUDA, 0);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::kCUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return kGpu; }
  c10::Device getDevice() const override { return kGpu; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kGpu); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kGpu); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Allocator final : c10::Allocator {
  static void release(void* data) { GlobalMemory::of_gpu().release(data); }
  c10::DataPtr allocate(size_t bytes) override {
    void* const data = GlobalMemory::of_gpu().allocate(bytes);
    return {data, data, &release, kGpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    const GlobalMemory::Access access;
    std::memcpy(to, from, bytes);
  }
};
Allocator allocator;
REGISTER_ALLOCATOR(c10::kCUDA, &allocator)

at::Tensor tensor_of(const c10::Storage& storage, c10::DispatchKey key, const at::Tensor& like) {
  at::Tensor out =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(key), like.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return out;
}

/// Converts tensors on the GPU to views for CPU operators, and their results back to tensors on the GPU.
class HostViews {
 public:
  c10::IValue on_host(const c10::IValue& value) {
    if (value.isTensor()) return view_of(value.toTensor());
    if (value.isDevice() && value.toDevice().is_cuda()) return c10::Device(c10::kCPU);
    if (!value.isTensorList()) return value;
    c10::List<at::Tensor> views;
    for (const at::Tensor& x : value.toTensorVector()) views.push_back(view_of(x));
    return views;
  }
  c10::IValue on_gpu(const c10::IValue& value) const {
    ENSURE(!value.isTensorList(), "the emulated GPU has no operator that returns a list of tensors");
    if (!value.isTensor() || !value.toTensor().defined()) return value;
    const at::Tensor& result = value.toTensor();
    for (const auto& [original, view] : views_) {
      if (!view.storage().is_alias_of(result.storage())) continue;
      const bool same = view.is_same(result) && original.sizes() == result.sizes();
      return same ? original : tensor_of(original.storage(), c10::DispatchKey::CUDA, result);
    }
    at::Tensor copy = at::empty_strided(result.sizes(), result.strides(), result.options().device(kGpu));
    std::memcpy(copy.mutable_data_ptr(), result.const_data_ptr(), copy.storage().nbytes());
    return copy;
  }

 private:
  at::Tensor view_of(const at::Tensor& x) {
    if (!x.defined() || !x.is_cuda()) return x;
    const c10::Storage& storage = x.storage();
    c10::DataPtr data(storage.mutable_data(), c10::Device(c10::kCPU));
    const c10::Storage on_host(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), nullptr, false);
    views_.emplace_back(x, tensor_of(on_host, c10::DispatchKey::CPU, x));
    return views_.back().second;
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> views_;
};

/// Any operator that LibTorch has for the CPU.
void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const GlobalMemory::Access access;
  HostViews views;
  const size_t arguments = op.schema().arguments().size(), results = op.schema().returns().size();
  for (auto value = stack->end() - static_cast<ptrdiff_t>(arguments); value != stack->end(); ++value)
    *value = views.on_host(*value);
  op.callBoxed(stack);
  for (auto value = stack->end() - static_cast<ptrdiff_t>(results); value != stack->end(); ++value)
    *value = views.on_gpu(*value);
}

const c10::DispatchKeySet kOnGpu(c10::DispatchKey::CUDA);

at::Tensor empty(c10::SymIntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(sizes), &allocator, kOnGpu, dtype.value_or(at::kFloat),
                                   format);
}
at::Tensor empty_strided(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), &allocator,
                                           kOnGpu, dtype.value_or(at::kFloat));
}

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  // LibTorch has these for all devices at once, by a table of functions that has none for CUDA here.
  library.impl("copy_", torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

}  // namespace
}  // namespace emulation
