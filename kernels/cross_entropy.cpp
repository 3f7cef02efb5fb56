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
void row_losses(const at::Tensor& logits_NV, const at::Tensor& targets_N, at::Tensor& losses_N) {
  const T* const all = logits_NV.const_data_ptr<T>();
  const int64_t* const targets = targets_N.const_data_ptr<int64_t>();
  double* const losses = losses_N.data_ptr<double>();
  const int64_t V = logits_NV.size(1);
  for_rows(logits_NV.size(0), 4 * V, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      losses[n] = 0;
      if (targets[n] == kIgnoredTarget) continue;
      losses[n] = token_loss(softmax_sum(all + n * V, V), load(all[n * V + targets[n]]));
    }
  });
}

/// The same losses; logits are overwritten by their gradient, scale * (softmax * (1 + 2 gamma logsumexp) - one-hot
/// target), zero where the target is ignored.
template <typename T>
void row_losses_and_grads(at::Tensor& logits_NV, const at::Tensor& targets_N, double scale, RowLosses& out) {
  T* const all = logits_NV.data_ptr<T>();
  const int64_t* const targets = targets_N.const_data_ptr<int64_t>();
  double* const losses = out.losses_N.data_ptr<double>();
  double* const squares = out.squares_N.defined() ? out.squares_N.data_ptr<double>() : nullptr;
  const int64_t V = logits_NV.size(1);
  for_rows(logits_NV.size(0), 4 * V, [=, gamma = out.z_weight](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* const logits = all + n * V;
      losses[n] = 0;
      if (squares) squares[n] = 0;
      if (targets[n] == kIgnoredTarget) {
        std::fill(logits, logits + V, rounded<T>(0));
        continue;
      }
      const auto stats = softmax_sum(logits, V);
      const Acc<T> highest = stats.highest, factor = softmax_factor(stats, scale, gamma);
      const Acc<T> logit = load(logits[targets[n]]);
      const Acc<T> target = fast_exp(logit - highest) * factor - static_cast<Acc<T>>(scale);
      losses[n] = token_loss(stats, logit);
      if (squares) squares[n] = log_sum_exp(stats) * log_sum_exp(stats);
#pragma omp simd
      for (int64_t v = 0; v < V; ++v) logits[v] = rounded<T>(fast_exp(load(logits[v]) - highest) * factor);
      logits[targets[n]] = rounded<T>(target);
    }
  });
}

/// For targets in host memory. Those on a GPU are checked by the kernels; reading them here would be a host sync.
void ensure_targets(const at::Tensor& targets_N, int64_t V) {
  const int64_t* const targets = targets_N.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < targets_N.size(0); ++n)
    ENSURE((targets[n] >= 0 && targets[n] < V) || targets[n] == kIgnoredTarget,
           "target {} of token {} is outside of the vocabulary of {}", targets[n], n, V);
}

/// Computes the logits of one chunk of tokens after the other in a shared buffer, calls f(first, logits, targets,
/// losses) for each, and returns the losses [N].
template <typename F>
at::Tensor losses_by_chunks(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N, int64_t chunk,
                            const F& f) {
  ensure_dim(x_ND, 2, "cross entropy: x");
  ensure_dim(w_VD, 2, "cross entropy: weight");
  ensure_same_device(w_VD, x_ND, "cross entropy: weight");
  ensure_same_device(targets_N, x_ND, "cross entropy: targets");
  const int64_t N = x_ND.size(0), V = w_VD.size(0);
  ENSURE(chunk > 0, "cross entropy: a chunk of {} tokens", chunk);
  ENSURE(targets_N.is_contiguous() && targets_N.sizes() == at::IntArrayRef({N}),
         "cross entropy: targets must be contiguous, one for each of {} tokens", N);
  if (targets_N.is_cpu()) ensure_targets(targets_N, V);
  const at::Tensor losses_N = at::empty({N}, x_ND.options().dtype(at::kDouble));
  const at::Tensor logits_buffer = at::empty({std::min(chunk, N), V}, x_ND.options());
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t rows = std::min(chunk, N - first);
    at::Tensor logits = logits_buffer.narrow(0, 0, rows), losses = losses_N.narrow(0, first, rows);
    at::mm_out(logits, x_ND.narrow(0, first, rows), w_VD.t());
    f(first, logits, targets_N.narrow(0, first, rows), losses);
  }
  return losses_N;
}

/// On a CPU in order, for any number of threads.
at::Tensor sum_of(const at::Tensor& losses_N) {
  if (losses_N.is_cuda()) return losses_N.sum();
  const double* const losses = losses_N.const_data_ptr<double>();
  return at::scalar_tensor(std::accumulate(losses, losses + losses_N.numel(), 0.0), losses_N.options());
}

void overwrite_by_grads(at::Tensor& logits_NV, const at::Tensor& targets_N, const at::Tensor& seed, RowLosses& out) {
  if (logits_NV.is_cuda()) return cuda::row_losses_and_grads(logits_NV, targets_N, seed, out);
  const double scale = seed.item<double>();
  for_dtype(logits_NV.scalar_type(), [&]<typename T>() { row_losses_and_grads<T>(logits_NV, targets_N, scale, out); });
}

}  // namespace

at::Tensor token_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                               int64_t chunk) {
  return losses_by_chunks(
      x_ND, w_VD, targets_N, chunk, [](int64_t, at::Tensor& logits, const at::Tensor& targets, at::Tensor& losses) {
        if (logits.is_cuda()) return cuda::row_losses(logits, targets, losses);
        for_dtype(logits.scalar_type(), [&]<typename T>() { row_losses<T>(logits, targets, losses); });
      });
}

at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk) {
  return sum_of(token_cross_entropy(x_ND, w_VD, targets_N, chunk));
}

LossAndGrad linear_cross_entropy_with_grads(const LossSeed& seed, const at::Tensor& x_ND, const at::Tensor& w_VD,
                                            const at::Tensor& targets_N, int64_t chunk, at::Tensor dw_VD) {
  ENSURE(seed.value.defined() && seed.value.numel() == 1 && seed.value.scalar_type() == at::kDouble,
         "cross entropy: the seed must be one float64");
  LossAndGrad out{{}, at::empty(x_ND.sizes(), x_ND.options()), {}};
  at::Tensor squares_N;
  if (seed.z_weight != 0) squares_N = at::empty({x_ND.size(0)}, x_ND.options().dtype(at::kDouble));
  const auto losses_N = losses_by_chunks(
      x_ND, w_VD, targets_N, chunk,
      [&](int64_t first, at::Tensor& logits, const at::Tensor& targets, at::Tensor& losses) {
        const int64_t rows = logits.size(0);
        at::Tensor dx = out.dx_ND.narrow(0, first, rows);
        RowLosses of_rows{losses, squares_N.defined() ? squares_N.narrow(0, first, rows) : squares_N, seed.z_weight};
        overwrite_by_grads(logits, targets, seed.value, of_rows);
        at::mm_out(dx, logits, w_VD);
        gemm_weight_grad(logits, x_ND.narrow(0, first, rows), dw_VD);
      });
  out.loss = sum_of(losses_N);
  if (squares_N.defined()) out.z = sum_of(squares_N);
  return out;
}

}  // namespace olmoe::kernels
