// AdamW of one element, shared by CPU and GPU. Formula: adamw.h.
#pragma once
#include "kernels/adamw.h"
#include "kernels/rows/elements.h"

namespace olmoe::kernels {

/// Constants of one AdamW step, in the dtype of the parameters: decay = 1 - lr * weight_decay, step_size = lr / bias
/// correction of m, root_scale = 1 / sqrt(bias correction of v). Aligned for vector loads on a GPU.
template <typename P>
struct alignas(16) AdamWConstants {
  P beta1, beta2, one_minus_beta1, one_minus_beta2, eps, decay, step_size, root_scale;
};
static_assert(sizeof(AdamWConstants<float>) == kAdamWConstants * sizeof(float) &&
              sizeof(AdamWConstants<double>) == kAdamWConstants * sizeof(double));

template <typename P>
AdamWConstants<P> adamw_constants_of(const AdamWStep& s) {
  const double bias1 = 1 - std::pow(s.beta1, s.step), bias2 = 1 - std::pow(s.beta2, s.step);
  return {.beta1 = static_cast<P>(s.beta1),
          .beta2 = static_cast<P>(s.beta2),
          .one_minus_beta1 = static_cast<P>(1 - s.beta1),
          .one_minus_beta2 = static_cast<P>(1 - s.beta2),
          .eps = static_cast<P>(s.eps),
          .decay = static_cast<P>(1 - s.lr * s.weight_decay),
          .step_size = static_cast<P>(s.lr / bias1),
          .root_scale = static_cast<P>(1 / std::sqrt(bias2))};
}
/// A parameter and its two moments.
template <typename P>
struct AdamWElement {
  P param, exp_avg, exp_avg_sq;
};
/// One expression for each output, so that slicing cannot change its bits. `grad`: already clipped.
template <typename P>
OLMOE_ELEMENT AdamWElement<P> adamw_element(AdamWElement<P> old, P grad, const AdamWConstants<P>& c) {
  const P m = c.beta1 * old.exp_avg + c.one_minus_beta1 * grad,
          v = c.beta2 * old.exp_avg_sq + c.one_minus_beta2 * (grad * grad);
  return {c.decay * old.param - c.step_size * m / (std::sqrt(v) * c.root_scale + c.eps), m, v};
}

}  // namespace olmoe::kernels
