#include "model/head.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/grouped_gemm.h"

namespace olmoe {

StageState Head::state() {
  auto out = norm_.state();
  if (!config_.tie_embeddings)
    out.params.push_back(
        shared_param("head.weight", {config_.vocab_size, config_.d_model}, ParamRole::head, *weight_VD_));
  return out;
}

StageOut Head::forward(const at::Tensor& x_ND, StageContext& context) {
  if (context.phase == Phase::score && context.candidates) {
    const auto& [positions_C, ids_C] = *context.candidates;
    const auto normed_CD = norm_.forward(x_ND.index_select(0, positions_C), SavePolicy::all).y_ND;
    return {kernels::token_cross_entropy(normed_CD, *weight_VD_, ids_C, config_.loss_chunk), {}};
  }
  auto normed_ND = norm_.forward(x_ND, SavePolicy::all).y_ND;  // its backward follows at once
  const auto targets_N = context.batch.targets_BS.flatten();
  if (context.phase == Phase::score)
    return {kernels::token_cross_entropy(normed_ND, *weight_VD_, targets_N, config_.loss_chunk), {}};
  const auto sums = linear_cross_entropy(normed_ND, *weight_VD_, targets_N, config_.loss_chunk,
                                         {context.loss_seed, config_.output_z_weight});
  return {.y = sums.cross_entropy, .aux = {}, .output_z = sums.z};
}

StageCost Head::cost(const CostContext& context) const {
  constexpr int64_t kLoss = sizeof(double);  // of a token
  const int64_t tokens = context.tokens(), row = config_.d_model * context.value_bytes;
  const int64_t logits_row = config_.vocab_size * context.value_bytes;
  const auto N = static_cast<double>(tokens), D = static_cast<double>(config_.d_model);
  const auto V = static_cast<double>(config_.vocab_size);
  const double logits = N * static_cast<double>(logits_row);
  StageCost out;
  const int64_t losses = config_.output_z_weight != 0 ? 2 * kLoss : kLoss;
  out.work = {norm_.work(context, 0), linear_work("head", 2 * N * D * V, N * (D + V), D * V, context),
              memory_work("cross-entropy", logits, logits)};
  // The normed rows and their gradient, statistics, losses; a chunk of logits.
  const int64_t rows = 2 * tokens * row + norm_.statistics_bytes(context);
  out.peaks = {
      {"loss and its gradients", 0, rows + tokens * losses + std::min(tokens, config_.loss_chunk) * logits_row}};
  if (norm_.is_composed()) out.peaks.push_back({"backward of the last norm", 0, rows + norm_.backward_bytes(context)});
  return out;
}

at::Tensor Head::logits(const at::Tensor& x_ND) const {
  at::NoGradGuard no_grad;
  return kernels::gemm(norm_.forward(x_ND, SavePolicy::all).y_ND, *weight_VD_);
}

}  // namespace olmoe
