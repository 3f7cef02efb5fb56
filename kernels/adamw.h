#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct AdamWStep {
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;  ///< 1 for the first update
};
/// What adamw() reads of a step, [kAdamWConstants] of the parameters' dtype, in host memory. A tensor, so that a CUDA
/// graph that holds an adamw() can be given another step.
constexpr int64_t kAdamWConstants = 8;
at::Tensor adamw_constants(const AdamWStep& step, at::ScalarType dtype);
/// What is trained: flat, contiguous, of equal length. The first four have one dtype, at least fp32.
struct AdamWState {
  at::Tensor param, grad, exp_avg, exp_avg_sq;
  at::Tensor rounded;  ///< undefined, or receives the new parameters in its own dtype
};
/// Decoupled AdamW (Loshchilov & Hutter), in place. Its bits depend neither on slicing nor on threads. Gradients are
/// multiplied by `grad_factor`, a float64 scalar on their device (clipping); where it is not finite, nothing is
/// updated. `grad` is left zero either way, ready to be added to: it costs no pass of its own here. `constants`:
/// adamw_constants(), on the parameters' device.
void adamw(const AdamWState& state, const at::Tensor& constants, const at::Tensor& grad_factor);
/// Sum of squares in float64, in an order that does not depend on threads. Returns a float64 scalar tensor.
at::Tensor squared_norm(const at::Tensor& x);

}  // namespace olmoe::kernels
