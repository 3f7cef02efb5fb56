#include "kernels/adamw.h"

#include <ATen/ops/scalar_tensor.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/dtypes.h"
#include "kernels/row_loop.h"

namespace olmoe::kernels {
namespace {

/// Each element is a function of itself alone, in one expression, so slicing cannot change its bits
/// (ATen's fused AdamW computes the elements after its last whole vector otherwise).
template <typename P>
void update(P* param, P* grad, P* exp_avg, P* exp_avg_sq, int64_t n, const AdamWStep& step) {
  const P factor = step.grad_factor, beta1 = step.beta1, beta2 = step.beta2, eps = step.eps;
  const P keep1 = 1 - step.beta1, keep2 = 1 - step.beta2;
  const P decay = 1 - step.lr * step.weight_decay;
  const P step_size = step.lr / (1 - std::pow(step.beta1, step.step));
  const P root_scale = 1 / std::sqrt(1 - std::pow(step.beta2, step.step));
  for_rows(n, 1, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const P g = grad[i] * factor;
      const P m = beta1 * exp_avg[i] + keep1 * g, v = beta2 * exp_avg_sq[i] + keep2 * (g * g);
      grad[i] = 0;
      exp_avg[i] = m;
      exp_avg_sq[i] = v;
      param[i] = decay * param[i] - step_size * m / (std::sqrt(v) * root_scale + eps);
    }
  });
}

/// In as many sums as keep the adders busy: one sum would wait for itself.
template <typename T>
double sum_of_squares(const T* values, int64_t n) {
  constexpr int64_t kSums = 32;
  double sums[kSums] = {};
  const int64_t whole = n / kSums * kSums;
  for (int64_t i = 0; i < whole; i += kSums) {
#pragma omp simd
    for (int64_t j = 0; j < kSums; ++j) {
      const double value = load(values[i + j]);
      sums[j] += value * value;
    }
  }
  for (int64_t i = whole; i < n; ++i) {
    const double value = load(values[i]);
    sums[i - whole] += value * value;
  }
  return std::accumulate(sums, sums + kSums, 0.0);
}

}  // namespace

void adamw(at::Tensor param, at::Tensor grad, at::Tensor exp_avg, at::Tensor exp_avg_sq,
           const AdamWStep& step) {
  ensure_cpu(param, 1, "adamw: param");
  for (const at::Tensor& x : {param, grad, exp_avg, exp_avg_sq})
    ENSURE(x.sizes() == param.sizes() && x.is_contiguous() && x.is_cpu() &&
               x.scalar_type() == param.scalar_type(),
           "adamw: gradient and moments must be contiguous, of the parameters' dtype, and {} long",
           param.numel());
  ENSURE(step.step >= 1, "adamw: steps count from 1, not {}", step.step);
  for_dtype(param.scalar_type(), [&]<typename T>() {
    if constexpr (std::is_same_v<T, Acc<T>>)
      update(param.data_ptr<T>(), grad.data_ptr<T>(), exp_avg.data_ptr<T>(),
             exp_avg_sq.data_ptr<T>(), param.numel(), step);
    else
      throw Error("adamw: parameters must be float32 or float64");
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
