// Shapes: N tokens, E experts, K experts of each token, U groups of N/U consecutive tokens.
#pragma once
#include <ATen/core/Tensor.h>

#include "kernels/router.h"
#include "model/config.h"

namespace olmoe {

/// The K largest keys of each token, [N, K] int32, largest first; ties to the lower index.
at::Tensor top_experts(const at::Tensor& keys_NE, int64_t top_k);

/// kernels::route() and route_backward() for any model.router_score. Softmax is theirs, in one kernel; sigmoid is
/// composed of ATen's operators: then probs_NE are sigmoid(logits), which do not add up to 1, and lse_N is that of the
/// logits. Source of the sigmoid: DeepSeek-V3, arXiv 2412.19437, equations 13 to 15.
class Scoring {
 public:
  Scoring(RouterScore score, bool renormalize) : score_(score), renormalize_(renormalize) {}
  /// `ids_NK`: the choice; undefined: the K largest scores.
  kernels::RouterOutput forward(const at::Tensor& logits_NE, int64_t top_k, int64_t groups,
                                const at::Tensor& ids_NK) const;
  /// The distribution over the experts that the load-balancing loss takes the mean of, [N, E]: the scores over their
  /// sum.
  at::Tensor balance_probs(const kernels::RouterOutput& routed) const;
  /// dlogits_NE in the dtype of the scores; `dprobs_UE` is the gradient of balance_probs().
  at::Tensor backward(const at::Tensor& dscores_NK, const at::Tensor& dprobs_UE, const at::Tensor& lse_scale,
                      const kernels::RouterOutput& routed, const at::Tensor& logits_NE) const;
  RouterScore score() const { return score_; }
  bool renormalizes() const { return renormalize_; }
  /// Whether backward() reads the logits, which are then saved in place of the probabilities.
  bool needs_logits() const { return score_ == RouterScore::sigmoid; }
  /// The scores of all experts again, from saved logits: of a scoring that needs them.
  static at::Tensor probs_of(const at::Tensor& logits_NE);

 private:
  RouterScore score_;
  bool renormalize_;
};

}  // namespace olmoe
