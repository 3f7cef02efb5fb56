#include "model/head.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/grouped_gemm.h"
#include "kernels/rms_norm.h"
#include "model/layers.h"

namespace olmoe {

StageState Head::state() {
  return {{shared_param("final_norm.weight", {config_.d_model}, ParamRole::norm, norm_D_),
           shared_param("head.weight", {config_.vocab_size, config_.d_model}, ParamRole::head, w_VD_)}};
}

StageOut Head::forward(const at::Tensor& x_ND, StageContext& context) {
  auto normed_ND =
      olmoe::rms_norm(x_ND, norm_D_, config_.norm_eps, SavePolicy::all).y_ND;  // its backward follows at once
  const auto targets_N = context.batch.targets_BS.flatten();
  if (context.phase == Phase::score)
    return {kernels::token_cross_entropy(normed_ND, w_VD_, targets_N, config_.loss_chunk), {}};
  return {linear_cross_entropy(normed_ND, w_VD_, targets_N, config_.loss_chunk, context.loss_seed), {}};
}

StageCost Head::cost(const CostContext& context) const {
  constexpr int64_t kLoss = sizeof(double);  // of a token
  const int64_t tokens = context.tokens(), row = config_.d_model * context.value_bytes;
  const int64_t logits_row = config_.vocab_size * context.value_bytes;
  const auto N = static_cast<double>(tokens), D = static_cast<double>(config_.d_model);
  const auto V = static_cast<double>(config_.vocab_size);
  const double norm = N * static_cast<double>(row), logits = N * static_cast<double>(logits_row);
  StageCost out;
  out.work = {memory_work("norms", 2 * norm, 3 * norm), linear_work("head", 2 * N * D * V, N * (D + V), D * V, context),
              memory_work("cross-entropy", logits, logits)};
  // The normed rows and their gradient, 1/rms, losses; a chunk of logits.
  out.peaks = {{"loss and its gradients", 0,
                tokens * (2 * row + context.master_bytes + kLoss) + std::min(tokens, config_.loss_chunk) * logits_row}};
  return out;
}

at::Tensor Head::logits(const at::Tensor& x_ND) const {
  at::NoGradGuard no_grad;
  return kernels::gemm(kernels::rms_norm(x_ND, norm_D_, config_.norm_eps).y_ND, w_VD_);
}

}  // namespace olmoe
