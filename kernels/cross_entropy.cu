// Shapes: C tokens of a chunk, V vocabulary rows. A block has one token's row of logits.
#include <cmath>
#include <limits>

#include "core/targets.h"
#include "kernels/cuda_kernels.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 512;
/// Two or three blocks to a multiprocessor: then the rows in work, 100 kB each at OLMoE's vocabulary, stay in the L2
/// cache between the two passes of row_loss_and_grads.
template <typename T>
[[maybe_unused]] constexpr int kBlocksAtOnce = sizeof(T) == sizeof(double) ? 1 : 2;

/// In one pass: each thread scales its sum down when it meets a higher logit, and at the end to the highest of all. The
/// first `highest` is finite, so that logits of minus infinity count zero and do not become NaN.
template <int N, typename T>
__device__ SoftmaxSum<Acc<T>> softmax_sum(const T* logits, int64_t V) {
  Acc<T> highest = std::numeric_limits<Acc<T>>::lowest(), sum = 0;
#pragma unroll 2
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * N; v < V; v += kThreads * N) {
    const auto part = load_vector<N>(logits + v);
    Acc<T> higher = highest;
#pragma unroll
    for (int i = 0; i < N; ++i) higher = std::fmax(higher, load(part.values[i]));  // a number, where there is one
    sum *= fast_exp(highest - higher);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += fast_exp(load(part.values[i]) - higher);
    highest = higher;
  }
  const Acc<T> highest_of_row = block_max(highest);
  return {highest_of_row, block_sum(sum * fast_exp(highest - highest_of_row))};
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T>)
    row_loss(const T* logits_CV, const int64_t* targets_C, int64_t V, double* losses_C) {
  const int64_t n = blockIdx.x, target = targets_C[n];
  const T* const logits = logits_CV + n * V;
  if (target == kIgnoredTarget) {
    if (threadIdx.x == 0) losses_C[n] = 0;
    return;
  }
  CUDA_KERNEL_ASSERT(target >= 0 && target < V);
  const auto row = softmax_sum<N>(logits, V);
  if (threadIdx.x == 0) losses_C[n] = token_loss(row, load(logits[target]));
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T>)
    row_loss_and_grads(T* logits_CV, const int64_t* targets_C, int64_t V, const double* seed, double* losses_C) {
  const int64_t target = targets_C[blockIdx.x];
  T* const logits = logits_CV + blockIdx.x * V;
  if (target == kIgnoredTarget) {
    const Vector<T, N> zero{};
    for (int64_t v = static_cast<int64_t>(threadIdx.x) * N; v < V; v += kThreads * N) store_vector(logits + v, zero);
    if (threadIdx.x == 0) losses_C[blockIdx.x] = 0;
    return;
  }
  CUDA_KERNEL_ASSERT(target >= 0 && target < V);
  const Acc<T> at_target = load(logits[target]);  // before the barriers of the sum, after which it is overwritten
  const auto row = softmax_sum<N>(logits, V);
  const double scale = *seed;
  const Acc<T> highest = row.highest, factor = static_cast<Acc<T>>(scale / row.sum);
#pragma unroll 2
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * N; v < V; v += kThreads * N) {
    auto part = load_vector<N>(logits + v);
#pragma unroll
    for (int i = 0; i < N; ++i) part.values[i] = rounded<T>(fast_exp(load(part.values[i]) - highest) * factor);
    store_vector(logits + v, part);
  }
  __syncthreads();  // the target's gradient overwrites what was stored there
  if (threadIdx.x != 0) return;
  logits[target] = rounded<T>(fast_exp(at_target - highest) * factor - static_cast<Acc<T>>(scale));
  losses_C[blockIdx.x] = token_loss(row, at_target);
}

}  // namespace

void row_losses(const at::Tensor& logits_CV, const at::Tensor& targets_C, at::Tensor& losses_C) {
  const int64_t C = logits_CV.size(0), V = logits_CV.size(1);
  if (C == 0) return;
  const Launch launch(logits_CV);
  const int64_t* const targets = targets_C.const_data_ptr<int64_t>();
  double* const losses = losses_C.data_ptr<double>();
  for_dtype(logits_CV.scalar_type(), [&]<typename T>() {
    const T* const logits = logits_CV.const_data_ptr<T>();
    for_width<T>(rows_are_vectors(logits, V, V), [&]<int N>() {
      row_loss<T, N><<<blocks_for(C, 1), kThreads, 0, launch>>>(logits, targets, V, losses);
    });
  });
}

void row_losses_and_grads(at::Tensor& logits_CV, const at::Tensor& targets_C, const at::Tensor& seed,
                          at::Tensor& losses_C) {
  const int64_t C = logits_CV.size(0), V = logits_CV.size(1);
  if (C == 0) return;
  const Launch launch(logits_CV);
  const int64_t* const targets = targets_C.const_data_ptr<int64_t>();
  const double* const scale = seed.const_data_ptr<double>();
  double* const losses = losses_C.data_ptr<double>();
  for_dtype(logits_CV.scalar_type(), [&]<typename T>() {
    T* const logits = logits_CV.data_ptr<T>();
    for_width<T>(rows_are_vectors(logits, V, V), [&]<int N>() {
      row_loss_and_grads<T, N><<<blocks_for(C, 1), kThreads, 0, launch>>>(logits, targets, V, scale, losses);
    });
  });
}

}  // namespace olmoe::kernels::cuda
