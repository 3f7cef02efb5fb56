#include "kernels/cross_entropy.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sum.h>

#include <cmath>
#include <numeric>

#include "kernels/cuda_kernels.h"
#include "kernels/grouped_gemm.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

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
      losses[n] = token_loss(softmax_sum(all + n * V, V), load(all[n * V + targets[n]]));
    }
  });
}

/// The same losses; logits are replaced by their gradient, scale * (softmax - one-hot target), zero where the target is
/// ignored.
template <typename T>
void row_losses_and_grads(at::Tensor& logits_CV, const at::Tensor& targets_C, double scale, at::Tensor& losses_C) {
  T* const all = logits_CV.data_ptr<T>();
  const int64_t* const targets = targets_C.const_data_ptr<int64_t>();
  double* const losses = losses_C.data_ptr<double>();
  const int64_t V = logits_CV.size(1);
  for_rows(logits_CV.size(0), 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* const logits = all + n * V;
      losses[n] = 0;
      if (targets[n] == kIgnoredTarget) {
        std::fill(logits, logits + V, rounded<T>(0));
        continue;
      }
      const auto stats = softmax_sum(logits, V);
      const Acc<T> highest = stats.highest, factor = static_cast<Acc<T>>(scale / stats.sum);
      const Acc<T> logit = load(logits[targets[n]]);
      const Acc<T> target = fast_exp(logit - highest) * factor - static_cast<Acc<T>>(scale);
      losses[n] = token_loss(stats, logit);
#pragma omp simd
      for (int64_t v = 0; v < V; ++v) logits[v] = rounded<T>(fast_exp(load(logits[v]) - highest) * factor);
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

/// Calls f(first, logits, targets, losses) for each chunk of tokens, and returns the losses [N].
template <typename F>
at::Tensor losses_by_chunks(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N, int64_t chunk,
                            const F& f) {
  ensure_dim(x_ND, 2, "cross entropy: x");
  ensure_dim(w_VD, 2, "cross entropy: weight");
  ensure_together(w_VD, x_ND, "cross entropy: weight");
  ensure_together(targets_N, x_ND, "cross entropy: targets");
  const int64_t N = x_ND.size(0), V = w_VD.size(0);
  ENSURE(chunk > 0, "cross entropy: a chunk of {} tokens", chunk);
  ENSURE(targets_N.is_contiguous() && targets_N.sizes() == at::IntArrayRef({N}),
         "cross entropy: targets must be contiguous, one for each of {} tokens", N);
  if (targets_N.is_cpu()) ensure_targets(targets_N, V);
  const at::Tensor losses_N = at::empty({N}, x_ND.options().dtype(at::kDouble));
  const at::Tensor buffer_CV = at::empty({std::min(chunk, N), V}, x_ND.options());
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t rows = std::min(chunk, N - first);
    at::Tensor logits_CV = buffer_CV.narrow(0, 0, rows), losses_C = losses_N.narrow(0, first, rows);
    at::mm_out(logits_CV, x_ND.narrow(0, first, rows), w_VD.t());
    f(first, logits_CV, targets_N.narrow(0, first, rows), losses_C);
  }
  return losses_N;
}

/// On a CPU in order, whatever the number of threads.
at::Tensor sum_of(const at::Tensor& losses_N) {
  if (losses_N.is_cuda()) return losses_N.sum();
  const double* const losses = losses_N.const_data_ptr<double>();
  return at::scalar_tensor(std::accumulate(losses, losses + losses_N.numel(), 0.0), losses_N.options());
}

void replace_by_grads(at::Tensor& logits_CV, const at::Tensor& targets_C, const at::Tensor& seed,
                      at::Tensor& losses_C) {
  if (logits_CV.is_cuda()) return cuda::row_losses_and_grads(logits_CV, targets_C, seed, losses_C);
  const double scale = seed.item<double>();
  for_dtype(logits_CV.scalar_type(),
            [&]<typename T>() { row_losses_and_grads<T>(logits_CV, targets_C, scale, losses_C); });
}

}  // namespace

at::Tensor token_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                               int64_t chunk) {
  return losses_by_chunks(x_ND, w_VD, targets_N, chunk,
                          [](int64_t, at::Tensor& logits_CV, const at::Tensor& targets_C, at::Tensor& losses_C) {
                            if (logits_CV.is_cuda()) return cuda::row_losses(logits_CV, targets_C, losses_C);
                            for_dtype(logits_CV.scalar_type(),
                                      [&]<typename T>() { row_losses<T>(logits_CV, targets_C, losses_C); });
                          });
}

at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk) {
  return sum_of(token_cross_entropy(x_ND, w_VD, targets_N, chunk));
}

LossAndGrad linear_cross_entropy_with_grads(const at::Tensor& seed, const at::Tensor& x_ND, const at::Tensor& w_VD,
                                            const at::Tensor& targets_N, int64_t chunk, at::Tensor dw_VD) {
  ENSURE(seed.numel() == 1 && seed.scalar_type() == at::kDouble, "cross entropy: the seed must be one float64");
  at::Tensor dx_ND = at::empty(x_ND.sizes(), x_ND.options());
  const auto losses_N =
      losses_by_chunks(x_ND, w_VD, targets_N, chunk,
                       [&](int64_t first, at::Tensor& logits_CV, const at::Tensor& targets_C, at::Tensor& losses_C) {
                         const int64_t rows = logits_CV.size(0);
                         at::Tensor dx_CD = dx_ND.narrow(0, first, rows);
                         replace_by_grads(logits_CV, targets_C, seed, losses_C);
                         at::mm_out(dx_CD, logits_CV, w_VD);
                         gemm_weight_grad(logits_CV, x_ND.narrow(0, first, rows), dw_VD);
                       });
  return {sum_of(losses_N), dx_ND};
}

}  // namespace olmoe::kernels
