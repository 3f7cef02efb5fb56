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

/// The K greatest, in the order of chosen_before(): experts come by rising index, so a later one must be greater.
/// `taken` is scratch of E.
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
void route_rows(const at::Tensor& logits_TE, bool choose, bool renormalize, Router& out) {
  const int64_t E = logits_TE.size(1), K = out.ids_TK.size(1), stride = logits_TE.stride(0);
  const T* const logits = logits_TE.const_data_ptr<T>();
  Acc<T>*const probs = out.probs_TE.data_ptr<Acc<T>>(), *const lse = out.lse_T.data_ptr<Acc<T>>();
  Acc<T>* const scores = out.scores_TK.data_ptr<Acc<T>>();
  int32_t* const ids = out.ids_TK.data_ptr<int32_t>();
  for_rows(logits_TE.size(0), E * (K + 4), [=](int64_t begin, int64_t end) {
    std::vector<char> taken(E);
    for (int64_t t = begin; t < end; ++t) {
      lse[t] = softmax(logits + t * stride, E, probs + t * E);
      if (choose) choose_top_k(probs + t * E, E, K, taken.data(), ids + t * K);
      take_scores(probs + t * E, ids + t * K, K, renormalize, scores + t * K);
    }
  });
}

/// Adds each group's assignments to the counts, and refuses ids of no expert.
void count_assignments(const at::Tensor& ids_TK, at::Tensor& counts_GE) {
  const int64_t groups = counts_GE.size(0), num_experts = counts_GE.size(1);
  const int64_t per_group = ids_TK.numel() / groups;
  const int32_t* id = ids_TK.const_data_ptr<int32_t>();
  int64_t* count = counts_GE.data_ptr<int64_t>();
  for (int64_t g = 0; g < groups; ++g, count += num_experts) {
    for (int64_t i = 0; i < per_group; ++i, ++id) {
      ENSURE(*id >= 0 && *id < num_experts, "expert {} of {}", *id, num_experts);
      ++count[*id];
    }
  }
}

/// Gradient of one token's logits. `dprobs` comes in with the gradient of each probability.
template <typename P>
void backward_row(const P* probs, const P* dprobs, P dlse, int64_t E, P* dlogits) {
  P dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t e = 0; e < E; ++e) dot += probs[e] * dprobs[e];
#pragma omp simd
  for (int64_t e = 0; e < E; ++e) dlogits[e] = probs[e] * (dprobs[e] - dot + dlse);
}

/// What one token's choice adds to the gradients of its probabilities.
template <typename P>
void add_score_grads(const Choice<P>& choice, bool renormalize, P* dprobs) {
  const auto shares = score_shares(choice, renormalize);
  for (int64_t k = 0; k < choice.K; ++k) dprobs[choice.ids[k]] += (choice.dscores[k] - shares.dot) / shares.sum;
}

template <typename P>
void backward_rows(const at::Tensor& dscores_TK, const at::Tensor& dprobs_GE, P lse_scale, const Router& forward,
                   bool renormalize, at::Tensor& dlogits_TE) {
  const int64_t T = forward.probs_TE.size(0), E = forward.probs_TE.size(1), K = forward.ids_TK.size(1);
  const int64_t group_size = dprobs_GE.defined() ? T / dprobs_GE.size(0) : 1;
  const P* const dscores = dscores_TK.const_data_ptr<P>();
  const P* const dprobs = dprobs_GE.defined() ? dprobs_GE.const_data_ptr<P>() : nullptr;
  const P *const probs = forward.probs_TE.const_data_ptr<P>(), *const lse = forward.lse_T.const_data_ptr<P>();
  const P* const scores = forward.scores_TK.const_data_ptr<P>();
  const int32_t* const ids = forward.ids_TK.const_data_ptr<int32_t>();
  P* const dlogits = dlogits_TE.data_ptr<P>();
  for_rows(T, 4 * E, [=](int64_t begin, int64_t end) {
    std::vector<P> dp(E);
    for (int64_t t = begin; t < end; ++t) {
      if (dprobs) std::copy_n(dprobs + t / group_size * E, E, dp.data());
      if (!dprobs) std::fill(dp.begin(), dp.end(), P{0});
      const Choice<P> choice{dscores + t * K, scores + t * K, probs + t * E, ids + t * K, K};
      add_score_grads(choice, renormalize, dp.data());
      backward_row(probs + t * E, dp.data(), lse_scale * lse[t], E, dlogits + t * E);
    }
  });
}

}  // namespace

Router route(const at::Tensor& logits_TE, int64_t top_k, int64_t groups, bool renormalize, const at::Tensor& ids_TK) {
  ensure_dim(logits_TE, 2, "route: logits");
  const int64_t T = logits_TE.size(0), E = logits_TE.size(1);
  ENSURE(top_k >= 1 && top_k <= E, "route: top {} of {} experts", top_k, E);
  ENSURE(groups >= 1 && T % groups == 0, "route: {} tokens do not make {} equal groups", T, groups);
  const at::Tensor logits = dense_rows(logits_TE);
  const auto options = logits.options().dtype(acc_dtype(logits.scalar_type()));
  Router out{at::empty({T, E}, options),
             at::empty({T}, options),
             {},
             at::empty({T, top_k}, options),
             at::zeros({groups, E}, options.dtype(at::kLong))};
  if (ids_TK.defined()) {
    ensure_together(ids_TK, logits, "route: the given choice");
    ENSURE(ids_TK.sizes() == at::IntArrayRef({T, top_k}), "route: the given choice is not [{}, {}]", T, top_k);
    out.ids_TK = ids_TK.contiguous();
  } else {
    out.ids_TK = at::empty({T, top_k}, options.dtype(at::kInt));
  }
  if (logits.is_cuda()) return cuda::route(logits, !ids_TK.defined(), renormalize, out), out;
  if (ids_TK.defined()) count_assignments(out.ids_TK, out.counts_GE);  // first: it checks what the loop trusts
  for_dtype(logits.scalar_type(),
            [&]<typename Element>() { route_rows<Element>(logits, !ids_TK.defined(), renormalize, out); });
  if (!ids_TK.defined()) count_assignments(out.ids_TK, out.counts_GE);
  return out;
}

at::Tensor route_backward(const at::Tensor& dscores_TK, const at::Tensor& dprobs_GE, const at::Tensor& lse_scale,
                          const Router& forward, bool renormalize) {
  ENSURE(dscores_TK.sizes() == forward.scores_TK.sizes(), "route_backward: dscores must have the shape of the scores");
  ENSURE(lse_scale.numel() == 1 && lse_scale.scalar_type() == at::kDouble,
         "route_backward: the factor of logsumexp must be one float64");
  ensure_together(dscores_TK, forward.probs_TE, "route_backward: dscores");
  ensure_together(lse_scale, forward.probs_TE, "route_backward: the factor of logsumexp");
  ENSURE(!dprobs_GE.defined() || dprobs_GE.sizes() == forward.counts_GE.sizes(),
         "route_backward: dprobs must have the shape of the counts");
  const at::Tensor dscores = dscores_TK.contiguous();
  const at::Tensor dprobs = dprobs_GE.defined() ? dprobs_GE.contiguous() : dprobs_GE;
  at::Tensor dlogits_TE = at::empty_like(forward.probs_TE);
  if (dscores.is_cuda())
    return cuda::route_backward({dscores, dprobs, lse_scale}, forward, renormalize, dlogits_TE), dlogits_TE;
  for_dtype(forward.probs_TE.scalar_type(), [&]<typename P>() {
    if constexpr (!std::is_same_v<P, c10::BFloat16>)
      backward_rows<P>(dscores, dprobs, static_cast<P>(lse_scale.item<double>()), forward, renormalize, dlogits_TE);
  });
  return dlogits_TE;
}

}  // namespace olmoe::kernels
