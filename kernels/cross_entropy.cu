// Shapes: N tokens of a chunk, V vocabulary rows. A block has one token's row of logits.
#include <cmath>
#include <limits>

#include "core/targets.h"
#include "kernels/cuda_kernels.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 512;
/// Blocks per multiprocessor: few, so that the rows in flight, 100 kB each for OLMoE's vocabulary, stay in the L2 cache
/// between the two passes of row_loss_and_grads.
template <typename T>
[[maybe_unused]] constexpr int kBlocksAtOnce = sizeof(T) == sizeof(double) ? 1 : 2;

/// Online softmax in one pass: each thread rescales its sum when it finds a higher logit, and at the end to the maximum
/// of the row. The initial `highest` is finite, so that logits of minus infinity count as zero and do not become NaN.
/// Source: Milakov and Gimelshein, arXiv 1805.02867.
template <int N, typename T>
__device__ SoftmaxSum<Acc<T>> softmax_sum(const T* logits, int64_t V) {
  Acc<T> highest = std::numeric_limits<Acc<T>>::lowest(), sum = 0;
#pragma unroll 2
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * N; v < V; v += kThreads * N) {
    const auto part = load_vector<N>(logits + v);
    Acc<T> higher = highest;
#pragma unroll
    for (int i = 0; i < N; ++i) higher = std::fmax(higher, load(part.values[i]));  // fmax ignores NaN
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
    row_loss(const T* logits_NV, const int64_t* targets_N, int64_t V, double* losses_N) {
  const int64_t n = blockIdx.x, target = targets_N[n];
  const T* const logits = logits_NV + n * V;
  if (target == kIgnoredTarget) {
    if (threadIdx.x == 0) losses_N[n] = 0;
    return;
  }
  CUDA_KERNEL_ASSERT(target >= 0 && target < V);
  const auto row = softmax_sum<N>(logits, V);
  if (threadIdx.x == 0) losses_N[n] = token_loss(row, load(logits[target]));
}

/// What is written of each row beside its gradients.
struct RowOutputs {
  double* losses;
  double* squares;  ///< of logsumexp; null: not wanted
  double z_weight;
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T>)
    row_loss_and_grads(T* logits_NV, const int64_t* targets_N, int64_t V, const double* seed, RowOutputs out) {
  const int64_t target = targets_N[blockIdx.x];
  T* const logits = logits_NV + blockIdx.x * V;
  if (target == kIgnoredTarget) {
    const Vector<T, N> zero{};
    for (int64_t v = static_cast<int64_t>(threadIdx.x) * N; v < V; v += kThreads * N) store_vector(logits + v, zero);
    if (threadIdx.x != 0) return;
    out.losses[blockIdx.x] = 0;
    if (out.squares != nullptr) out.squares[blockIdx.x] = 0;
    return;
  }
  CUDA_KERNEL_ASSERT(target >= 0 && target < V);
  const Acc<T> at_target = load(logits[target]);  // before the barriers of softmax_sum, after which it is overwritten
  const auto row = softmax_sum<N>(logits, V);
  const double scale = *seed;
  const Acc<T> highest = row.highest, factor = softmax_factor(row, scale, out.z_weight);
#pragma unroll 2
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * N; v < V; v += kThreads * N) {
    auto part = load_vector<N>(logits + v);
#pragma unroll
    for (int i = 0; i < N; ++i) part.values[i] = rounded<T>(fast_exp(load(part.values[i]) - highest) * factor);
    store_vector(logits + v, part);
  }
  __syncthreads();  // the target's gradient overwrites the value stored above
  if (threadIdx.x != 0) return;
  logits[target] = rounded<T>(fast_exp(at_target - highest) * factor - static_cast<Acc<T>>(scale));
  out.losses[blockIdx.x] = token_loss(row, at_target);
  if (out.squares != nullptr) out.squares[blockIdx.x] = log_sum_exp(row) * log_sum_exp(row);
}

}  // namespace

void row_losses(const at::Tensor& logits_NV, const at::Tensor& targets_N, at::Tensor& losses_N) {
  const int64_t rows = logits_NV.size(0), V = logits_NV.size(1);
  if (rows == 0) return;
  const Launch launch(logits_NV);
  const int64_t* const targets = targets_N.const_data_ptr<int64_t>();
  double* const losses = losses_N.data_ptr<double>();
  for_dtype(logits_NV.scalar_type(), [&]<typename T>() {
    const T* const logits = logits_NV.const_data_ptr<T>();
    for_width<T>(rows_are_vectors(logits, V, V), [&]<int kWidth>() {
      row_loss<T, kWidth><<<blocks_for(rows, 1), kThreads, 0, launch>>>(logits, targets, V, losses);
    });
  });
}

void row_losses_and_grads(at::Tensor& logits_NV, const at::Tensor& targets_N, const at::Tensor& seed, RowLosses& out) {
  const int64_t rows = logits_NV.size(0), V = logits_NV.size(1);
  if (rows == 0) return;
  const Launch launch(logits_NV);
  const int64_t* const targets = targets_N.const_data_ptr<int64_t>();
  const double* const scale = seed.const_data_ptr<double>();
  const RowOutputs outputs{out.losses_N.data_ptr<double>(),
                           out.squares_N.defined() ? out.squares_N.data_ptr<double>() : nullptr, out.z_weight};
  for_dtype(logits_NV.scalar_type(), [&]<typename T>() {
    T* const logits = logits_NV.data_ptr<T>();
    for_width<T>(rows_are_vectors(logits, V, V), [&]<int kWidth>() {
      row_loss_and_grads<T, kWidth><<<blocks_for(rows, 1), kThreads, 0, launch>>>(logits, targets, V, scale, outputs);
    });
  });
}

}  // namespace olmoe::kernels::cuda
