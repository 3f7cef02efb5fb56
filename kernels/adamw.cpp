#include "kernels/adamw.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/integers.h"
#include "kernels/adamw_element.h"
#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

/// AdamWState as pointers. C: dtype of the rounded copy, void without one.
template <typename P, typename C>
struct Pointers {
  P *param, *grad, *exp_avg, *exp_avg_sq;
  C* copy;
};

/// Each element depends on itself alone, so slicing cannot change its bits (ATen's fused AdamW computes the elements
/// after its last whole vector by other instructions).
template <typename P, typename C>
void update(Pointers<P, C> state, int64_t n, const AdamWConstants<P>& constants, P factor) {
  for_rows(n, 1, [=](int64_t begin, int64_t end) {
    // No structured binding: clang before 16 cannot capture one in an OpenMP loop.
    P *const param = state.param, *const grad = state.grad;
    P *const exp_avg = state.exp_avg, *const exp_avg_sq = state.exp_avg_sq;
    [[maybe_unused]] C* const copy = state.copy;
    const AdamWConstants<P> c = constants;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const auto next = adamw_element({param[i], exp_avg[i], exp_avg_sq[i]}, grad[i] * factor, c);
      grad[i] = 0;
      exp_avg[i] = next.exp_avg;
      exp_avg_sq[i] = next.exp_avg_sq;
      param[i] = next.param;
      if constexpr (!std::is_void_v<C>) copy[i] = rounded<C>(next.param);
    }
  });
}

/// 16 independent sums hide the latency of additions; four streams, since one stream of loads reaches half of the
/// memory bandwidth.
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

at::Tensor adamw_constants(const AdamWStep& step, at::ScalarType dtype) {
  ENSURE(step.step >= 1, "adamw: steps count from 1, not {}", step.step);
  ENSURE(dtype == at::kFloat || dtype == at::kDouble, "adamw: parameters must be float32 or float64");
  at::Tensor constants = at::empty({kAdamWConstants}, dtype);
  const auto write = [&](const auto& values) { std::memcpy(constants.data_ptr(), &values, sizeof values); };
  dtype == at::kDouble ? write(adamw_constants_of<double>(step)) : write(adamw_constants_of<float>(step));
  return constants;
}

namespace {

void ensure_adamw(const AdamWState& state, const at::Tensor& constants, const at::Tensor& grad_factor) {
  const at::Tensor &param = state.param, &copy = state.rounded;
  ensure_dim(param, 1, "adamw: param");
  for (const at::Tensor& x : {param, state.grad, state.exp_avg, state.exp_avg_sq}) {
    ensure_same_device(x, param, "adamw: gradient or moment");
    ENSURE(x.sizes() == param.sizes() && x.is_contiguous() && x.scalar_type() == param.scalar_type(),
           "adamw: gradient and moments must be contiguous, of the parameters' dtype, and {} long", param.numel());
  }
  ENSURE(param.scalar_type() == at::kFloat || param.scalar_type() == at::kDouble,
         "adamw: parameters must be float32 or float64");
  if (copy.defined()) {
    ensure_same_device(copy, param, "adamw: the rounded copy");
    ENSURE(copy.sizes() == param.sizes() && copy.is_contiguous(),
           "adamw: the rounded copy must be contiguous and {} long", param.numel());
    ENSURE(acc_dtype(copy.scalar_type()) == param.scalar_type(), "adamw: a rounded copy in {} of parameters in {}",
           c10::toString(copy.scalar_type()), c10::toString(param.scalar_type()));
  }
  ensure_same_device(constants, param, "adamw: the constants of the step");
  const bool fit = constants.numel() == kAdamWConstants && constants.is_contiguous();
  ENSURE(fit && constants.scalar_type() == param.scalar_type(),
         "adamw: the constants of the step must be {} of the parameters' dtype", kAdamWConstants);
  ensure_same_device(grad_factor, param, "adamw: the factor of the gradients");
  ENSURE(grad_factor.numel() == 1 && grad_factor.scalar_type() == at::kDouble,
         "adamw: the factor of the gradients must be one float64");
}

}  // namespace

void adamw(const AdamWState& state, const at::Tensor& constants, const at::Tensor& grad_factor) {
  ensure_adamw(state, constants, grad_factor);
  const at::Tensor &param = state.param, &copy = state.rounded;
  if (param.is_cuda()) return cuda::adamw(state, constants, grad_factor);
  const double factor = grad_factor.item<double>();
  if (!std::isfinite(factor)) {
    state.grad.zero_();
    return;
  }
  for_dtype(param.scalar_type(), [&]<typename P>() {
    const auto run = [&]<typename C>(C* rounded_copy) {
      const Pointers<P, C> pointers{param.data_ptr<P>(), state.grad.data_ptr<P>(), state.exp_avg.data_ptr<P>(),
                                    state.exp_avg_sq.data_ptr<P>(), rounded_copy};
      AdamWConstants<P> of_step;
      std::memcpy(&of_step, constants.const_data_ptr(), sizeof of_step);
      update(pointers, param.numel(), of_step, static_cast<P>(factor));
    };
    if constexpr (std::is_same_v<P, Acc<P>>) {
      if (!copy.defined()) return run(static_cast<void*>(nullptr));
      for_dtype(copy.scalar_type(), [&]<typename C>() {
        if constexpr (std::is_same_v<P, Acc<C>>) run(copy.data_ptr<C>());
      });
    }
  });
}

at::Tensor squared_norm(const at::Tensor& x) {
  ensure_same_device(x, x, "squared_norm");
  constexpr int64_t kBlock = 16384;
  const at::Tensor dense = x.contiguous();
  if (dense.is_cuda()) return cuda::squared_norm(dense);
  const int64_t n = dense.numel(), blocks = ceil_div(n, kBlock);
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
