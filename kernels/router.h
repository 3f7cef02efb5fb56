// Shapes: N tokens, E experts, K experts of each token, U groups of N/U consecutive tokens, over which the
// load-balancing loss is taken.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct RouterOutput {
  at::Tensor probs_NE;   ///< softmax over all experts, fp32 (float64 for float64 logits)
  at::Tensor lse_N;      ///< logsumexp of the logits, for the z-loss
  at::Tensor ids_NK;     ///< int32, by falling probability, ties to the lower index
  at::Tensor scores_NK;  ///< probabilities of the chosen experts; divided by their sum if renormalize
  at::Tensor counts_UE;  ///< int64, assignments of each group to each expert
};
/// Token-choice routing in one pass: softmax, top-k, counts. bf16 logits are read as fp32. If `ids_NK` is defined it is
/// taken as the choice (activation checkpointing never routes again) and only the rest is computed. `groups`: U, which
/// divides N. Throws Error where shapes or devices do not match, and on a CPU for given ids that are no expert.
/// Source: Shazeer et al., arXiv 1701.06538; softmax before top-k: OLMoE, arXiv 2409.02060.
RouterOutput route(const at::Tensor& logits_NE, int64_t top_k, int64_t groups, bool renormalize,
                   const at::Tensor& ids_NK);

/// dlogits_NE, in the dtype of probs, from three gradients: of the chosen scores (dscores_NK); of the probabilities
/// (dprobs_UE: the same for every token of a group, as the load-balancing loss has it; undefined: zero); and of the
/// logsumexp (lse_scale * lse_N, as the z-loss has it; lse_scale: a float64 scalar).
at::Tensor route_backward(const at::Tensor& dscores_NK, const at::Tensor& dprobs_UE, const at::Tensor& lse_scale,
                          const RouterOutput& forward, bool renormalize);

}  // namespace olmoe::kernels
