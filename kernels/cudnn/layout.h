// How tensors lie for cuDNN's attention. Shapes: B sequences, S positions, H heads, d head width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels::cudnn {

/// cuDNN names dimensions in the order batch, head, position, width, whatever the strides: a view.
inline at::Tensor as_BHSd(const at::Tensor& x_BSHd) { return x_BSHd.transpose(1, 2); }
/// One value for each head and position: a view.
inline at::Tensor as_BHS1(const at::Tensor& x_BHS) { return x_BHS.unsqueeze(3); }

/// True of what cuDNN can read and write where it lies: in bf16, 16 bytes at a time.
inline bool is_aligned(const at::Tensor& x_BSHd) {
  constexpr int64_t kWidth = 8;  // values of bf16
  bool fits = x_BSHd.stride(3) == 1 && reinterpret_cast<uintptr_t>(x_BSHd.const_data_ptr()) % 16 == 0;
  for (int64_t dim = 0; dim < 3; ++dim) fits = fits && x_BSHd.stride(dim) > 0 && x_BSHd.stride(dim) % kWidth == 0;
  return fits;
}

/// x, or a copy where cuDNN could not read it as it lies: a gradient that was expanded, for one.
inline at::Tensor operand(const at::Tensor& x_BSHd) {
  return is_aligned(x_BSHd) ? x_BSHd : x_BSHd.clone(at::MemoryFormat::Contiguous);
}

}  // namespace olmoe::kernels::cudnn
