#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct AdamWStep {
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;  ///< 1 for the first update
};
/// The constants of a step for adamw(): [kAdamWConstants] in the parameters' dtype (float32 or float64), in host
/// memory. A tensor, so that each replay of a CUDA graph can read the constants of another step. Throws Error for other
/// dtypes and for a step below 1.
constexpr int64_t kAdamWConstants = 8;
at::Tensor adamw_constants(const AdamWStep& step, at::ScalarType dtype);
/// Parameters, their gradient and moments: flat, contiguous, of equal length. The first four have one dtype, float32 or
/// float64.
struct AdamWState {
  at::Tensor param, grad, exp_avg, exp_avg_sq;
  at::Tensor rounded;  ///< undefined, or receives the new parameters rounded to its dtype
};
/// AdamW with decoupled weight decay, in place. The result is bit-identical for any slicing and any number of threads.
///   g = grad * grad_factor;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   param = (1 - lr weight_decay) param - lr m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)
/// `grad_factor`: the clipping factor, a float64 scalar on the parameters' device. Where it is not finite, nothing is
/// updated. `grad` is zeroed in any case, in the same pass. `constants`: adamw_constants(), on the parameters' device.
/// Throws Error where shapes, dtypes or devices do not match. Source: Loshchilov and Hutter, arXiv 1711.05101.
void adamw(const AdamWState& state, const at::Tensor& constants, const at::Tensor& grad_factor);
/// Sum of squares, accumulated in float64 in an order that does not depend on threads. Returns a float64 scalar tensor.
at::Tensor squared_norm(const at::Tensor& x);

}  // namespace olmoe::kernels
