// Shapes: B matrices of R rows and C columns, n the lesser of R and C.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace olmoe {

/// The quintic iteration X <- a X + (b A + c A A) X with A = X X^T, `steps` times.
struct NewtonSchulz {
  std::array<double, 3> coefficients{3.4445, -4.7750, 2.0315};  ///< a, b, c
  int64_t steps = 5;
};

/// Orthogonalises each matrix of x_BRC, contiguous, in its dtype: with the coefficients above and five steps U S V^T
/// becomes U S' V^T, most singular values S' between about 0.7 and 1.2. Each matrix is divided by its Frobenius norm
/// first, rounded to that dtype and no smaller than 1e-7, so that zeros stay zeros; it is transposed where R > C, so
/// that A is [n, n]. Returns [B, R, C], contiguous. Matrix products are ATen's: equal inputs in equal batches give
/// equal bits, another B may not. Throws Error for other shapes. Source: Jordan et al., Muon (2024); coefficients and
/// 1e-7 as torch.optim.Muon has them.
at::Tensor newton_schulz(const at::Tensor& x_BRC, const NewtonSchulz& rule);

}  // namespace olmoe
