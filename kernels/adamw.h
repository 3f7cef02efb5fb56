#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct AdamWStep {
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;        ///< 1 for the first update
  double grad_factor;  ///< gradients are multiplied by it (clipping)
};
/// Decoupled AdamW (Loshchilov & Hutter) on flat tensors of equal length and dtype, in place.
/// Its bits depend neither on slicing nor on threads. `grad` is left zero, ready to be added to:
/// it costs no pass of its own here.
/// `rounded`, where defined, receives the new parameters in its own dtype.
void adamw(at::Tensor param, at::Tensor grad, at::Tensor exp_avg, at::Tensor exp_avg_sq, const AdamWStep& step,
           at::Tensor rounded = {});
/// Sum of squares in float64, in an order that does not depend on threads. Returns a float64 scalar tensor.
at::Tensor squared_norm(const at::Tensor& x);

}  // namespace olmoe::kernels
