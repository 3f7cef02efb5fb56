#include "kernels/adamw.h"

#include <ATen/ops/scalar_tensor.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/dtypes.h"
#include "kernels/row_loop.h"

namespace olmoe::kernels {
namespace {

/// What is trained, flat.
template <typename P>
struct State {
  P *param, *grad, *exp_avg, *exp_avg_sq;
};

/// Each element is a function of itself alone, in one expression, so slicing cannot change its bits
/// (ATen's fused AdamW computes the elements after its last whole vector otherwise).
template <typename P, typename C>
void update(State<P> state, C* copy, int64_t n, const AdamWStep& step) {
  const P factor = step.grad_factor, beta1 = step.beta1, beta2 = step.beta2, eps = step.eps;
  const P keep1 = 1 - step.beta1, keep2 = 1 - step.beta2;
  const P decay = 1 - step.lr * step.weight_decay;
  const P step_size = step.lr / (1 - std::pow(step.beta1, step.step));
  const P root_scale = 1 / std::sqrt(1 - std::pow(step.beta2, step.step));
  for_rows(n, 1, [=](int64_t begin, int64_t end) {
    const auto [param, grad, exp_avg, exp_avg_sq] = state;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const P g = grad[i] * factor;
      const P m = beta1 * exp_avg[i] + keep1 * g, v = beta2 * exp_avg_sq[i] + keep2 * (g * g);
      const P p = decay * param[i] - step_size * m / (std::sqrt(v) * root_scale + eps);
      grad[i] = 0;
      exp_avg[i] = m;
      exp_avg_sq[i] = v;
      param[i] = p;
      if constexpr (!std::is_void_v<C>) copy[i] = rounded<C>(p);
    }
  });
}

/// In as many sums as keep the adders busy, over four places at once: one stream of loads gets half
/// of the memory's speed.
template <typename T>
double sum_of_squares(const T* values, int64_t n) {
  constexpr int64_t kStreams = 4, kSums = 16;
  double sums[kStreams][kSums] = {};
  const int64_t quarter = n / kStreams / kSums * kSums;
  for (int64_t i = 0; i < quarter; i += kSums) {
    for (int64_t s = 0; s < kStreams; ++s) {
#pragma omp simd
      for (int64_t j = 0; j < kSums; ++j) {
        const double value = load(values[s * quarter + i + j]);
        sums[s][j] += value * value;
      }
    }
  }
  double total = 0;
  for (const auto& stream : sums) total = std::accumulate(stream, stream + kSums, total);
  for (int64_t i = kStreams * quarter; i < n; ++i) {
    const double value = load(values[i]);
    total += value * value;
  }
  return total;
}

}  // namespace

void adamw(at::Tensor param, at::Tensor grad, at::Tensor exp_avg, at::Tensor exp_avg_sq,
           const AdamWStep& step, at::Tensor rounded) {
  ensure_cpu(param, 1, "adamw: param");
  for (const at::Tensor& x : {param, grad, exp_avg, exp_avg_sq})
    ENSURE(x.sizes() == param.sizes() && x.is_contiguous() && x.is_cpu() &&
               x.scalar_type() == param.scalar_type(),
           "adamw: gradient and moments must be contiguous, of the parameters' dtype, and {} long",
           param.numel());
  ENSURE(!rounded.defined() ||
             (rounded.sizes() == param.sizes() && rounded.is_contiguous() && rounded.is_cpu()),
         "adamw: the rounded copy must be contiguous and {} long", param.numel());
  ENSURE(step.step >= 1, "adamw: steps count from 1, not {}", step.step);
  for_dtype(param.scalar_type(), [&]<typename P>() {
    if constexpr (!std::is_same_v<P, Acc<P>>) {
      throw Error("adamw: parameters must be float32 or float64");
    } else {
      const State<P> state{param.data_ptr<P>(), grad.data_ptr<P>(), exp_avg.data_ptr<P>(),
                           exp_avg_sq.data_ptr<P>()};
      if (!rounded.defined()) return update<P, void>(state, nullptr, param.numel(), step);
      for_dtype(rounded.scalar_type(), [&]<typename C>() {
        if constexpr (std::is_same_v<P, Acc<C>>)
          update(state, rounded.data_ptr<C>(), param.numel(), step);
        else
          throw Error("adamw: the rounded copy must not be wider than the parameters");
      });
    }
  });
}

at::Tensor squared_norm(const at::Tensor& x) {
  ENSURE(x.is_cpu(), "squared_norm: x must be a CPU tensor");
  constexpr int64_t kBlock = 16384;
  const at::Tensor dense = x.contiguous();
  const int64_t n = dense.numel(), blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(blocks);
  double* const partials = partial.data();
  for_dtype(dense.scalar_type(), [&]<typename T>() {
    const T* const values = dense.const_data_ptr<T>();
    for_rows(blocks, kBlock, [=](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        partials[b] = sum_of_squares(values + b * kBlock, std::min(kBlock, n - b * kBlock));
    });
  });
  return at::scalar_tensor(std::accumulate(partial.begin(), partial.end(), 0.0),
                           at::TensorOptions().dtype(at::kDouble));
}

}  // namespace olmoe::kernels
