// Shapes: N rows, D width.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct RmsNorm {
  at::Tensor y_ND;    ///< dtype of x
  at::Tensor rstd_N;  ///< 1/sqrt(mean(x^2) + eps), fp32 (float64 for float64 x)
};
/// y = cast(x * rstd) * w, statistics in at least fp32; rounded where Hugging Face's OlmoeRMSNorm rounds. w_D has the
/// dtype of x. Throws Error where shapes, dtypes or devices do not match.
/// Source: Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467.
RmsNorm rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps);
/// x += residual (in place, rounded to its dtype), then rms_norm(x), in one pass. x must be contiguous.
RmsNorm add_rms_norm(at::Tensor x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps);
/// Returns dx_ND; adds the weight gradient to dw_D (at least fp32), rows in a fixed order. `dx_residual`: the gradient
/// that reaches x through a residual branch, undefined for none; it is added to dx before the one rounding.
at::Tensor rms_norm_backward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& w_D,
                             const at::Tensor& rstd_N, at::Tensor dw_D, const at::Tensor& dx_residual_ND = {});

}  // namespace olmoe::kernels
