#include <ATen/ops/empty.h>

#include <cmath>

#include "core/integers.h"
#include "kernels/adamw_element.h"
#include "kernels/cuda_kernels.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// AdamWState as pointers. C: dtype of the rounded copy, void without one.
template <typename P, typename C>
struct Pointers {
  P *param, *grad, *exp_avg, *exp_avg_sq;
  C* copy;
  int64_t n;
};

/// Elements [first, first + N). All loads are issued before the factor is tested, so that their latencies overlap.
template <int N, typename P, typename C>
__device__ void update_elements(const Pointers<P, C>& s, int64_t first, const AdamWConstants<P>* constants_of_step,
                                const double* grad_factor) {
  auto param = load_vector<N>(s.param + first), exp_avg = load_vector<N>(s.exp_avg + first),
       exp_avg_sq = load_vector<N>(s.exp_avg_sq + first);
  const auto grad = load_vector<N>(s.grad + first);
  const AdamWConstants<P> constants = *constants_of_step;
  const double factor = *grad_factor;
  store_vector(s.grad + first, Vector<P, N>{});
  if (!std::isfinite(factor)) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const auto next = adamw_element({param.values[i], exp_avg.values[i], exp_avg_sq.values[i]},
                                    grad.values[i] * static_cast<P>(factor), constants);
    param.values[i] = next.param;
    exp_avg.values[i] = next.exp_avg;
    exp_avg_sq.values[i] = next.exp_avg_sq;
  }
  store_vector(s.exp_avg + first, exp_avg);
  store_vector(s.exp_avg_sq + first, exp_avg_sq);
  store_vector(s.param + first, param);
  if constexpr (!std::is_void_v<C>) {
    Vector<C, N> copy;
#pragma unroll
    for (int i = 0; i < N; ++i) copy.values[i] = rounded<C>(param.values[i]);
    store_vector(s.copy + first, copy);
  }
}

/// A thread has N consecutive elements; the last thread takes the remainder one by one.
template <int N, typename P, typename C>
__global__ void __launch_bounds__(kThreads)
    update(Pointers<P, C> s, const AdamWConstants<P>* constants, const double* grad_factor) {
  int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (first + N <= s.n) return update_elements<N>(s, first, constants, grad_factor);
  for (; first < s.n; ++first) update_elements<1>(s, first, constants, grad_factor);
}

template <typename P, typename C>
void launch_update(const Pointers<P, C>& s, const AdamWConstants<P>* constants, const double* grad_factor,
                   cudaStream_t stream) {
  const bool vectors = starts_vector(s.param) && starts_vector(s.grad) && starts_vector(s.exp_avg) &&
                       starts_vector(s.exp_avg_sq) && starts_vector(s.copy);
  for_width<P>(vectors, [&]<int kWidth>() {
    update<kWidth><<<blocks_for(s.n, kThreads * kWidth), kThreads, 0, stream>>>(s, constants, grad_factor);
  });
}

/// Elements that a block sums: fixed, so that the order of summation depends on the length of x alone.
constexpr int64_t kElementsPerBlock = 32768;

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) sum_squares(const T* x, int64_t n, double* partial_sums) {
  const int64_t begin = blockIdx.x * kElementsPerBlock, end = std::min(n, begin + kElementsPerBlock);
  const int64_t vectors_end = begin + (end - begin) / N * N;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * N; i < vectors_end; i += kThreads * N) {
    const auto values = load_vector<N>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const double value = load(values.values[j]);
      sum += value * value;
    }
  }
  for (int64_t i = vectors_end + threadIdx.x; i < end; i += kThreads) {
    const double value = load(x[i]);
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial_sums[blockIdx.x] = sum;
}

constexpr int kAddThreads = 1024;
__global__ void __launch_bounds__(kAddThreads) add_in_order(const double* partial_sums, int64_t n, double* total) {
  double sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < n; i += kAddThreads) sum += partial_sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

void adamw(const AdamWState& state, const at::Tensor& constants, const at::Tensor& grad_factor) {
  const int64_t n = state.param.numel();
  if (n == 0) return;
  ENSURE(starts_vector(constants.const_data_ptr()), "adamw: the constants of the step must be aligned to 16 bytes");
  const Launch launch(state.param);
  const double* const factor = grad_factor.const_data_ptr<double>();
  for_dtype(state.param.scalar_type(), [&]<typename P>() {
    const auto run = [&]<typename C>(C* copy) {
      const Pointers<P, C> pointers{state.param.data_ptr<P>(),
                                    state.grad.data_ptr<P>(),
                                    state.exp_avg.data_ptr<P>(),
                                    state.exp_avg_sq.data_ptr<P>(),
                                    copy,
                                    n};
      launch_update(pointers, static_cast<const AdamWConstants<P>*>(constants.const_data_ptr()), factor, launch);
    };
    if constexpr (std::is_same_v<P, Acc<P>>) {
      if (!state.rounded.defined()) return run(static_cast<void*>(nullptr));
      for_dtype(state.rounded.scalar_type(), [&]<typename C>() {
        if constexpr (std::is_same_v<P, Acc<C>>) run(state.rounded.data_ptr<C>());
      });
    }
  });
}

at::Tensor squared_norm(const at::Tensor& x) {
  const int64_t n = x.numel(), blocks = ceil_div(n, kElementsPerBlock);
  const auto options = x.options().dtype(at::kDouble);
  const at::Tensor partial_sums = at::empty({blocks}, options), total = at::empty({}, options);
  double* const partials = partial_sums.data_ptr<double>();
  const Launch launch(x);
  if (n > 0) {
    for_dtype(x.scalar_type(), [&]<typename T>() {
      const T* const values = x.const_data_ptr<T>();
      for_width<T>(starts_vector(values), [&]<int kWidth>() {
        sum_squares<T, kWidth><<<blocks_for(blocks, 1), kThreads, 0, launch>>>(values, n, partials);
      });
    });
  }
  add_in_order<<<1, kAddThreads, 0, launch>>>(partials, blocks, total.data_ptr<double>());
  return total;
}

}  // namespace olmoe::kernels::cuda
