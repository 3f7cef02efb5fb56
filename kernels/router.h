// Shapes: T tokens, E experts, K chosen for each token, G groups of T/G consecutive tokens.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

struct Router {
  at::Tensor probs_TE;   ///< softmax over all experts, dtype of the logits (fp32 or float64)
  at::Tensor lse_T;      ///< logsumexp of the logits
  at::Tensor ids_TK;     ///< int32, by falling probability, ties to the lower index
  at::Tensor scores_TK;  ///< probabilities of the chosen; divided by their sum if renormalize
  at::Tensor counts_GE;  ///< int64 assignments of each group
};
/// One pass: softmax, top-k, counts. bf16 logits are read as fp32. With `ids_TK` defined the choice is given
/// (recompute never routes again) and only the rest is computed.
Router route(const at::Tensor& logits_TE, int64_t top_k, int64_t groups, bool renormalize, const at::Tensor& ids_TK);

/// dlogits_TE from three sources: the chosen scores (dscores_TK), each probability (dprobs_GE: the same value for
/// every token of a group; undefined = 0), and logsumexp (dlse = lse_scale * lse_T, a float64 scalar). dtype of probs.
at::Tensor route_backward(const at::Tensor& dscores_TK, const at::Tensor& dprobs_GE, const at::Tensor& lse_scale,
                          const Router& forward, bool renormalize);

}  // namespace olmoe::kernels
