#include "model/scoring.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

namespace olmoe {
namespace {

at::Tensor in_score_dtype(const at::Tensor& logits_NE) {
  return logits_NE.scalar_type() == at::kDouble ? logits_NE : logits_NE.to(at::kFloat);
}

/// Assignments of each group to each expert, int64 [U, E]: sums of integers, in any order the same.
at::Tensor count_by_group(const at::Tensor& ids_NK, int64_t num_experts, int64_t groups) {
  const auto ids_UX = ids_NK.to(at::kLong).view({groups, ids_NK.numel() / groups});
  return at::zeros({groups, num_experts}, ids_UX.options()).scatter_add_(1, ids_UX, at::ones_like(ids_UX));
}

}  // namespace

at::Tensor top_experts(const at::Tensor& keys_NE, int64_t top_k) {
  const auto order = std::get<1>(at::sort(keys_NE, /*stable=*/true, /*dim=*/1, /*descending=*/true));
  return order.narrow(1, 0, top_k).to(at::kInt).contiguous();
}

at::Tensor Scoring::probs_of(const at::Tensor& logits_NE) { return at::sigmoid(in_score_dtype(logits_NE)); }

kernels::RouterOutput Scoring::forward(const at::Tensor& logits_NE, int64_t top_k, int64_t groups,
                                       const at::Tensor& ids_NK) const {
  if (score_ == RouterScore::softmax) return kernels::route(logits_NE, top_k, groups, renormalize_, ids_NK);
  kernels::RouterOutput out;
  out.probs_NE = probs_of(logits_NE);
  out.lse_N = at::logsumexp(in_score_dtype(logits_NE), 1);
  out.ids_NK = ids_NK.defined() ? ids_NK.contiguous() : top_experts(out.probs_NE, top_k);
  out.scores_NK = out.probs_NE.gather(1, out.ids_NK.to(at::kLong));
  if (renormalize_) out.scores_NK = out.scores_NK / out.scores_NK.sum(1, /*keepdim=*/true);
  out.counts_UE = count_by_group(out.ids_NK, logits_NE.size(1), groups);
  return out;
}

at::Tensor Scoring::balance_probs(const kernels::RouterOutput& routed) const {
  if (score_ == RouterScore::softmax) return routed.probs_NE;
  return routed.probs_NE / routed.probs_NE.sum(1, /*keepdim=*/true);
}

at::Tensor Scoring::backward(const at::Tensor& dscores_NK, const at::Tensor& dprobs_UE, const at::Tensor& lse_scale,
                             const kernels::RouterOutput& routed, const at::Tensor& logits_NE) const {
  if (score_ == RouterScore::softmax)
    return kernels::route_backward(dscores_NK, dprobs_UE, lse_scale, routed, renormalize_);
  const auto& s_NE = routed.probs_NE;
  const int64_t num_experts = s_NE.size(1), groups = dprobs_UE.size(0);
  const auto ids_NK = routed.ids_NK.to(at::kLong);
  auto ds_NE = at::zeros_like(s_NE);
  if (renormalize_) {  // w = s / sum: ds_k = (dw_k - sum_j dw_j w_j) / sum
    const auto sum_N1 = s_NE.gather(1, ids_NK).sum(1, /*keepdim=*/true);
    const auto mean_N1 = (dscores_NK * routed.scores_NK).sum(1, /*keepdim=*/true);
    ds_NE.scatter_(1, ids_NK, (dscores_NK - mean_N1) / sum_N1);
  } else {
    ds_NE.scatter_(1, ids_NK, dscores_NK);
  }
  // The same for p = s / sum over all experts, with a gradient for each group; U groups of n tokens.
  const std::vector<int64_t> by_group{groups, s_NE.size(0) / groups, num_experts};
  const auto s_UnE = s_NE.view(by_group), dp_U1E = dprobs_UE.unsqueeze(1), sum_Un1 = s_UnE.sum(2, /*keepdim=*/true);
  const auto mean_Un1 = (s_UnE * dp_U1E).sum(2, /*keepdim=*/true) / sum_Un1;
  ds_NE.view(by_group).add_((dp_U1E - mean_Un1).div_(sum_Un1));
  auto dlogits_NE = at::sigmoid_backward(ds_NE, s_NE);
  ds_NE.reset();
  const auto lse_N1 = routed.lse_N.unsqueeze(1);
  return dlogits_NE.add_((logits_NE - lse_N1).exp_().mul_(lse_N1 * lse_scale.to(s_NE.scalar_type())));
}

}  // namespace olmoe
