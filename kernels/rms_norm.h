// Shapes: N rows, D width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct RmsNorm {
  at::Tensor y_ND;    ///< dtype of x
  at::Tensor rstd_N;  ///< 1/sqrt(mean(x^2) + eps), fp32 (float64 for float64 x)
};
/// y = cast(x * rstd) * w, statistics in at least fp32 (the order of Hugging Face's OlmoeRMSNorm).
RmsNorm rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps);
/// The same after x += residual, in one pass over both. x is contiguous.
RmsNorm add_rms_norm(at::Tensor x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps);
/// Returns dx_ND; adds the weight gradient to dw_D (at least fp32), rows in a fixed order. Where x went elsewhere too,
/// `dx_elsewhere` is its gradient from there, and dx the sum, rounded once.
at::Tensor rms_norm_backward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& w_D,
                             const at::Tensor& rstd_N, at::Tensor dw_D, const at::Tensor& dx_elsewhere_ND = {});

}  // namespace olmoe::kernels
