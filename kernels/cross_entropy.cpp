#include "kernels/cross_entropy.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sum.h>

#include <cmath>
#include <numeric>

#include "kernels/cuda_kernels.h"
#include "kernels/dtypes.h"
#include "kernels/grouped_gemm.h"
#include "kernels/row_loop.h"

namespace olmoe::kernels {
namespace {

template <typename A>
struct SoftmaxSum {
  A highest, sum;  ///< sum of exp(logit - highest)
};

template <typename T>
SoftmaxSum<Acc<T>> softmax_sum(const T* logits, int64_t V) {
  Acc<T> highest = load(logits[0]), sum = 0;
#pragma omp simd reduction(max : highest)
  for (int64_t v = 0; v < V; ++v) highest = load(logits[v]) > highest ? load(logits[v]) : highest;
#pragma omp simd reduction(+ : sum)
  for (int64_t v = 0; v < V; ++v) sum += fast_exp(load(logits[v]) - highest);
  return {highest, sum};
}

/// -log softmax[target] of each row; an ignored target's is zero.
template <typename T>
void row_losses(const at::Tensor& logits_CV, const at::Tensor& targets_C, at::Tensor& losses_C) {
  const T* const all = logits_CV.const_data_ptr<T>();
  const int64_t* const targets = targets_C.const_data_ptr<int64_t>();
  double* const losses = losses_C.data_ptr<double>();
  const int64_t V = logits_CV.size(1);
  for_rows(logits_CV.size(0), 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      losses[n] = 0;
      if (targets[n] == kIgnoredTarget) continue;
      const auto [highest, sum] = softmax_sum(all + n * V, V);
      losses[n] = std::log(static_cast<double>(sum)) + highest - load(all[n * V + targets[n]]);
    }
  });
}

/// Replaces logits by their gradient, scale * (softmax - one-hot target); zero where the target is
/// ignored.
template <typename T>
void logits_to_grads(at::Tensor& logits_CV, const at::Tensor& targets_C, double scale) {
  T* const all = logits_CV.data_ptr<T>();
  const int64_t* const targets = targets_C.const_data_ptr<int64_t>();
  const int64_t V = logits_CV.size(1);
  for_rows(logits_CV.size(0), 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* const logits = all + n * V;
      if (targets[n] == kIgnoredTarget) {
        std::fill(logits, logits + V, rounded<T>(0));
        continue;
      }
      const auto stats = softmax_sum(logits, V);
      const Acc<T> highest = stats.highest, factor = static_cast<Acc<T>>(scale / stats.sum);
      const Acc<T> target =
          fast_exp(load(logits[targets[n]]) - highest) * factor - static_cast<Acc<T>>(scale);
#pragma omp simd
      for (int64_t v = 0; v < V; ++v)
        logits[v] = rounded<T>(fast_exp(load(logits[v]) - highest) * factor);
      logits[targets[n]] = rounded<T>(target);
    }
  });
}

/// Targets in a GPU's memory are looked at by the kernels there: to ask for them would be to wait for the GPU.
void ensure_targets(const at::Tensor& targets_N, int64_t V) {
  const int64_t* const targets = targets_N.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < targets_N.size(0); ++n)
    ENSURE((targets[n] >= 0 && targets[n] < V) || targets[n] == kIgnoredTarget,
           "target {} of token {}, but the vocabulary has {}", targets[n], n, V);
}

/// Calls f(first, rows) for each chunk of tokens, after the checks that both passes need.
template <typename F>
void for_chunks(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                int64_t chunk, const F& f) {
  ensure_dim(x_ND, 2, "cross entropy: x");
  ensure_dim(w_VD, 2, "cross entropy: weight");
  ensure_together(w_VD, x_ND, "cross entropy: weight");
  ensure_together(targets_N, x_ND, "cross entropy: targets");
  const int64_t N = x_ND.size(0), V = w_VD.size(0);
  ENSURE(chunk > 0, "cross entropy: a chunk of {} tokens", chunk);
  ENSURE(targets_N.is_contiguous() && targets_N.sizes() == at::IntArrayRef({N}),
         "cross entropy: targets must be contiguous, one for each of {} tokens", N);
  if (targets_N.is_cpu()) ensure_targets(targets_N, V);
  for (int64_t first = 0; first < N; first += chunk) f(first, std::min(chunk, N - first));
}

void replace_by_grads(at::Tensor& logits_CV, const at::Tensor& targets_C, const at::Tensor& scale) {
  if (logits_CV.is_cuda()) return cuda::logits_to_grads(logits_CV, targets_C, scale);
  const double factor = scale.item<double>();
  for_dtype(logits_CV.scalar_type(), [&]<typename T>() { logits_to_grads<T>(logits_CV, targets_C, factor); });
}

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD,
                                const at::Tensor& targets_N, int64_t chunk) {
  at::Tensor losses_N = at::empty({x_ND.size(0)}, x_ND.options().dtype(at::kDouble));
  at::Tensor buffer_CV = at::empty({std::min(chunk, x_ND.size(0)), w_VD.size(0)}, x_ND.options());
  for_chunks(x_ND, w_VD, targets_N, chunk, [&](int64_t first, int64_t rows) {
    at::Tensor logits = buffer_CV.narrow(0, 0, rows);
    at::mm_out(logits, x_ND.narrow(0, first, rows), w_VD.t());
    const at::Tensor targets_C = targets_N.narrow(0, first, rows);
    at::Tensor losses_C = losses_N.narrow(0, first, rows);
    if (logits.is_cuda()) return cuda::row_losses(logits, targets_C, losses_C);
    for_dtype(logits.scalar_type(), [&]<typename T>() { row_losses<T>(logits, targets_C, losses_C); });
  });
  if (losses_N.is_cuda()) return losses_N.sum();
  const double* const losses = losses_N.const_data_ptr<double>();  // in order, whatever the number of threads
  return at::scalar_tensor(std::accumulate(losses, losses + losses_N.numel(), 0.0), losses_N.options());
}

at::Tensor linear_cross_entropy_backward(const at::Tensor& scale, const at::Tensor& x_ND,
                                         const at::Tensor& w_VD, const at::Tensor& targets_N,
                                         int64_t chunk, at::Tensor dw_VD) {
  ENSURE(scale.numel() == 1 && scale.scalar_type() == at::kDouble, "cross entropy: the seed must be one float64");
  at::Tensor dx_ND = at::empty(x_ND.sizes(), x_ND.options());
  at::Tensor buffer_CV = at::empty({std::min(chunk, x_ND.size(0)), w_VD.size(0)}, x_ND.options());
  for_chunks(x_ND, w_VD, targets_N, chunk, [&](int64_t first, int64_t rows) {
    at::Tensor logits = buffer_CV.narrow(0, 0, rows), dx = dx_ND.narrow(0, first, rows);
    const at::Tensor x = x_ND.narrow(0, first, rows);
    at::mm_out(logits, x, w_VD.t());
    replace_by_grads(logits, targets_N.narrow(0, first, rows), scale);
    at::mm_out(dx, logits, w_VD);
    gemm_weight_grad(logits, x, dw_VD);
  });
  return dx_ND;
}

}  // namespace olmoe::kernels
