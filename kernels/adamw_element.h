// AdamW of one element, for CPU and GPU alike.
#pragma once
#include "kernels/adamw.h"
#include "kernels/rows/elements.h"

namespace olmoe::kernels {

/// Constants of one AdamW step, in the dtype of the parameters. Aligned, so that a GPU reads several at once.
template <typename P>
struct alignas(16) AdamWConstants {
  P beta1, beta2, keep1, keep2, eps, decay, step_size, root_scale;
};
static_assert(sizeof(AdamWConstants<float>) == kAdamWConstants * sizeof(float) &&
              sizeof(AdamWConstants<double>) == kAdamWConstants * sizeof(double));

template <typename P>
AdamWConstants<P> adamw_constants_of(const AdamWStep& s) {
  const double bias1 = 1 - std::pow(s.beta1, s.step), bias2 = 1 - std::pow(s.beta2, s.step);
  return {.beta1 = static_cast<P>(s.beta1),
          .beta2 = static_cast<P>(s.beta2),
          .keep1 = static_cast<P>(1 - s.beta1),
          .keep2 = static_cast<P>(1 - s.beta2),
          .eps = static_cast<P>(s.eps),
          .decay = static_cast<P>(1 - s.lr * s.weight_decay),
          .step_size = static_cast<P>(s.lr / bias1),
          .root_scale = static_cast<P>(1 / std::sqrt(bias2))};
}
/// What is trained of one element.
template <typename P>
struct AdamWElement {
  P param, exp_avg, exp_avg_sq;
};
/// One expression, so that slicing cannot change its bits. `grad` is clipped.
template <typename P>
OLMOE_ELEMENT AdamWElement<P> adamw_element(AdamWElement<P> old, P grad, const AdamWConstants<P>& c) {
  const P m = c.beta1 * old.exp_avg + c.keep1 * grad, v = c.beta2 * old.exp_avg_sq + c.keep2 * (grad * grad);
  return {c.decay * old.param - c.step_size * m / (std::sqrt(v) * c.root_scale + c.eps), m, v};
}

}  // namespace olmoe::kernels
