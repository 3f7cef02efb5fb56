// Tensors on the noting device: memory of the host, and every operator by way of a copy on the CPU. In one source of a
// program alone, for it registers them.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>

#include "support/noting_device.h"

namespace olmoe::test {

class NotingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size_bytes) override {
    void* const data = ::operator new(size_bytes);
    return {data, data, &release, c10::Device(NotingGuard::static_type, 0)};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }

 private:
  static void release(void* data) { ::operator delete(data); }
};

inline NotingAllocator& noting_allocator() {
  static NotingAllocator of_the_device;
  return of_the_device;
}
inline const c10::DispatchKeySet kNotingKeys(c10::DispatchKey::PrivateUse1);

inline at::Tensor noting_empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                               std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::Tensor(
      at::detail::empty_generic(sizes, &noting_allocator(), kNotingKeys, dtype.value_or(at::kFloat), format));
}
inline at::Tensor noting_empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                                       std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                                       std::optional<at::Device>, std::optional<bool>) {
  return at::Tensor(
      at::detail::empty_strided_generic(sizes, strides, &noting_allocator(), kNotingKeys, dtype.value_or(at::kFloat)));
}
/// The same memory as a tensor of the CPU.
inline at::Tensor on_cpu(const at::Tensor& x) {
  return x.is_cpu() ? x : at::from_blob(x.data_ptr(), x.sizes(), x.strides(), at::TensorOptions().dtype(x.dtype()));
}
inline at::Tensor noting_copy(const at::Tensor& from, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}
inline at::Tensor noting_copy_and_resize(const at::Tensor& from, const at::Tensor& to) {
  return noting_copy(from, to, false);
}
inline void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", noting_empty);
  m.impl("empty_strided", noting_empty_strided);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_copy_from", noting_copy);
  m.impl("_copy_from_and_resize", noting_copy_and_resize);
}

}  // namespace olmoe::test
