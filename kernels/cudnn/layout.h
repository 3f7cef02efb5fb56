// Layout of tensors for cuDNN's attention. Shapes: B sequences, S positions, H heads, d head width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels::cudnn {

/// A view with dimensions in cuDNN's order: batch, head, position, width, for any strides.
inline at::Tensor as_BHSd(const at::Tensor& x_BSHd) { return x_BSHd.transpose(1, 2); }
/// A view of one value for each head and position.
inline at::Tensor as_BHS1(const at::Tensor& x_BHS) { return x_BHS.unsqueeze(3); }

/// True if cuDNN can access x (bf16) in place: dense rows aligned to 16 bytes.
inline bool is_aligned(const at::Tensor& x_BSHd) {
  constexpr int64_t kWidth = 8;  // values of bf16
  bool fits = x_BSHd.stride(3) == 1 && reinterpret_cast<uintptr_t>(x_BSHd.const_data_ptr()) % 16 == 0;
  for (int64_t dim = 0; dim < 3; ++dim) fits = fits && x_BSHd.stride(dim) > 0 && x_BSHd.stride(dim) % kWidth == 0;
  return fits;
}

/// x, or a contiguous copy where cuDNN cannot read x in place, such as an expanded gradient.
inline at::Tensor operand(const at::Tensor& x_BSHd) {
  return is_aligned(x_BSHd) ? x_BSHd : x_BSHd.clone(at::MemoryFormat::Contiguous);
}

}  // namespace olmoe::kernels::cudnn
