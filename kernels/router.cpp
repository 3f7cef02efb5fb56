#include "kernels/router.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

/// Writes softmax(logits) and returns the logsumexp.
template <typename T>
Acc<T> softmax(const T* logits, int64_t E, Acc<T>* probs) {
  Acc<T> highest = load(logits[0]);
#pragma omp simd reduction(max : highest)
  for (int64_t e = 0; e < E; ++e) highest = load(logits[e]) > highest ? load(logits[e]) : highest;
  Acc<T> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t e = 0; e < E; ++e) {
    probs[e] = fast_exp(load(logits[e]) - highest);
    sum += probs[e];
  }
#pragma omp simd
  for (int64_t e = 0; e < E; ++e) probs[e] /= sum;
  return highest + std::log(sum);
}

/// Top K in the order of chosen_before(): experts are visited by rising index, so a later one must be strictly greater.
/// `taken`: scratch of E.
template <typename P>
void choose_top_k(const P* probs, int64_t E, int64_t K, char* taken, int32_t* ids) {
  std::fill(taken, taken + E, 0);
  for (int64_t k = 0; k < K; ++k) {
    int64_t best = -1;
    for (int64_t e = 0; e < E; ++e)
      if (!taken[e] && (best < 0 || probs[e] > probs[best])) best = e;
    taken[best] = 1;
    ids[k] = static_cast<int32_t>(best);
  }
}

template <typename P>
void take_scores(const P* probs, const int32_t* ids, int64_t K, bool renormalize, P* scores) {
  P sum = 0;
  for (int64_t k = 0; k < K; ++k) sum += scores[k] = probs[ids[k]];
  if (!renormalize) return;
  for (int64_t k = 0; k < K; ++k) scores[k] /= sum;
}

template <typename T>
void route_rows(const at::Tensor& logits_NE, bool choose, bool renormalize, RouterOutput& out) {
  const int64_t E = logits_NE.size(1), K = out.ids_NK.size(1), stride = logits_NE.stride(0);
  const T* const logits = logits_NE.const_data_ptr<T>();
  Acc<T>*const probs = out.probs_NE.data_ptr<Acc<T>>(), *const lse = out.lse_N.data_ptr<Acc<T>>();
  Acc<T>* const scores = out.scores_NK.data_ptr<Acc<T>>();
  int32_t* const ids = out.ids_NK.data_ptr<int32_t>();
  for_rows(logits_NE.size(0), E * (K + 4), [=](int64_t begin, int64_t end) {
    std::vector<char> taken(E);
    for (int64_t n = begin; n < end; ++n) {
      lse[n] = softmax(logits + n * stride, E, probs + n * E);
      if (choose) choose_top_k(probs + n * E, E, K, taken.data(), ids + n * K);
      take_scores(probs + n * E, ids + n * K, K, renormalize, scores + n * K);
    }
  });
}

/// Adds each group's assignments to the counts. Throws Error for ids that are no expert.
void count_assignments(const at::Tensor& ids_NK, at::Tensor& counts_UE) {
  const int64_t groups = counts_UE.size(0), num_experts = counts_UE.size(1);
  const int64_t per_group = ids_NK.numel() / groups;
  const int32_t* id = ids_NK.const_data_ptr<int32_t>();
  int64_t* count = counts_UE.data_ptr<int64_t>();
  for (int64_t g = 0; g < groups; ++g, count += num_experts) {
    for (int64_t i = 0; i < per_group; ++i, ++id) {
      ENSURE(*id >= 0 && *id < num_experts, "expert {} of {}", *id, num_experts);
      ++count[*id];
    }
  }
}

/// Gradient of one token's logits, p_e (dp_e - sum(p dp) + dlse), through softmax and logsumexp.
template <typename P>
void backward_row(const P* probs, const P* dprobs, P dlse, int64_t E, P* dlogits) {
  P dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t e = 0; e < E; ++e) dot += probs[e] * dprobs[e];
#pragma omp simd
  for (int64_t e = 0; e < E; ++e) dlogits[e] = probs[e] * (dprobs[e] - dot + dlse);
}

/// Adds the gradients of the chosen scores to those of their probabilities.
template <typename P>
void add_score_grads(const Choice<P>& choice, bool renormalize, P* dprobs) {
  const auto shares = score_shares(choice, renormalize);
  for (int64_t k = 0; k < choice.K; ++k) dprobs[choice.ids[k]] += (choice.dscores[k] - shares.dot) / shares.sum;
}

template <typename P>
void backward_rows(const at::Tensor& dscores_NK, const at::Tensor& dprobs_UE, P lse_scale, const RouterOutput& forward,
                   bool renormalize, at::Tensor& dlogits_NE) {
  const int64_t N = forward.probs_NE.size(0), E = forward.probs_NE.size(1), K = forward.ids_NK.size(1);
  const int64_t group_size = dprobs_UE.defined() ? N / dprobs_UE.size(0) : 1;
  const P* const dscores = dscores_NK.const_data_ptr<P>();
  const P* const dprobs = dprobs_UE.defined() ? dprobs_UE.const_data_ptr<P>() : nullptr;
  const P *const probs = forward.probs_NE.const_data_ptr<P>(), *const lse = forward.lse_N.const_data_ptr<P>();
  const P* const scores = forward.scores_NK.const_data_ptr<P>();
  const int32_t* const ids = forward.ids_NK.const_data_ptr<int32_t>();
  P* const dlogits = dlogits_NE.data_ptr<P>();
  for_rows(N, 4 * E, [=](int64_t begin, int64_t end) {
    std::vector<P> dp(E);
    for (int64_t n = begin; n < end; ++n) {
      if (dprobs) std::copy_n(dprobs + n / group_size * E, E, dp.data());
      if (!dprobs) std::fill(dp.begin(), dp.end(), P{0});
      const Choice<P> choice{dscores + n * K, scores + n * K, probs + n * E, ids + n * K, K};
      add_score_grads(choice, renormalize, dp.data());
      backward_row(probs + n * E, dp.data(), lse_scale * lse[n], E, dlogits + n * E);
    }
  });
}

}  // namespace

RouterOutput route(const at::Tensor& logits_NE, int64_t top_k, int64_t groups, bool renormalize,
                   const at::Tensor& ids_NK) {
  ensure_dim(logits_NE, 2, "route: logits");
  const int64_t N = logits_NE.size(0), E = logits_NE.size(1);
  ENSURE(top_k >= 1 && top_k <= E, "route: top {} of {} experts", top_k, E);
  ENSURE(groups >= 1 && N % groups == 0, "route: {} tokens are not divisible into {} groups", N, groups);
  const at::Tensor logits = dense_rows(logits_NE);
  const auto options = logits.options().dtype(acc_dtype(logits.scalar_type()));
  RouterOutput out{at::empty({N, E}, options),
                   at::empty({N}, options),
                   {},
                   at::empty({N, top_k}, options),
                   at::zeros({groups, E}, options.dtype(at::kLong))};
  if (ids_NK.defined()) {
    ensure_same_device(ids_NK, logits, "route: the given choice");
    ENSURE(ids_NK.sizes() == at::IntArrayRef({N, top_k}), "route: the given choice is not [{}, {}]", N, top_k);
    out.ids_NK = ids_NK.contiguous();
  } else {
    out.ids_NK = at::empty({N, top_k}, options.dtype(at::kInt));
  }
  if (logits.is_cuda()) return cuda::route(logits, !ids_NK.defined(), renormalize, out), out;
  if (ids_NK.defined()) count_assignments(out.ids_NK, out.counts_UE);  // first, since it checks ids
  for_dtype(logits.scalar_type(),
            [&]<typename Element>() { route_rows<Element>(logits, !ids_NK.defined(), renormalize, out); });
  if (!ids_NK.defined()) count_assignments(out.ids_NK, out.counts_UE);
  return out;
}

at::Tensor route_backward(const at::Tensor& dscores_NK, const at::Tensor& dprobs_UE, const at::Tensor& lse_scale,
                          const RouterOutput& forward, bool renormalize) {
  ENSURE(dscores_NK.sizes() == forward.scores_NK.sizes(), "route_backward: dscores must have the shape of the scores");
  ENSURE(lse_scale.numel() == 1 && lse_scale.scalar_type() == at::kDouble,
         "route_backward: the factor of logsumexp must be one float64");
  ensure_same_device(dscores_NK, forward.probs_NE, "route_backward: dscores");
  ensure_same_device(lse_scale, forward.probs_NE, "route_backward: the factor of logsumexp");
  ENSURE(!dprobs_UE.defined() || dprobs_UE.sizes() == forward.counts_UE.sizes(),
         "route_backward: dprobs must have the shape of the counts");
  const at::Tensor dscores = dscores_NK.contiguous();
  const at::Tensor dprobs = dprobs_UE.defined() ? dprobs_UE.contiguous() : dprobs_UE;
  at::Tensor dlogits_NE = at::empty_like(forward.probs_NE);
  if (dscores.is_cuda())
    return cuda::route_backward({dscores, dprobs, lse_scale}, forward, renormalize, dlogits_NE), dlogits_NE;
  for_dtype(forward.probs_NE.scalar_type(), [&]<typename P>() {
    if constexpr (!std::is_same_v<P, c10::BFloat16>)
      backward_rows<P>(dscores, dprobs, static_cast<P>(lse_scale.item<double>()), forward, renormalize, dlogits_NE);
  });
  return dlogits_NE;
}

}  // namespace olmoe::kernels
