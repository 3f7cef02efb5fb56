#include "model/head.h"

#include "kernels/cross_entropy.h"
#include "kernels/grouped_gemm.h"
#include "kernels/rms_norm.h"
#include "model/layers.h"

namespace olmoe {

std::vector<Param> Head::params() {
  return {shared_param("final_norm.weight", {config_.d_model}, ParamRole::norm, norm_D_),
          shared_param("head.weight", {config_.vocab_size, config_.d_model}, ParamRole::matrix, w_VD_)};
}

StageOut Head::forward(const at::Tensor& x_ND, StageContext& context) {
  auto normed_ND =
      olmoe::rms_norm(x_ND, norm_D_, config_.norm_eps, SavePolicy::all).y_ND;  // its backward follows at once
  const auto targets_N = context.batch.targets_BS.flatten();
  if (context.phase == Phase::score)
    return {kernels::token_cross_entropy(normed_ND, w_VD_, targets_N, config_.loss_chunk), {}};
  return {linear_cross_entropy(normed_ND, w_VD_, targets_N, config_.loss_chunk, context.loss_seed), {}};
}

at::Tensor Head::logits(const at::Tensor& x_ND) const {
  at::NoGradGuard no_grad;
  return kernels::gemm(kernels::rms_norm(x_ND, norm_D_, config_.norm_eps).y_ND, w_VD_);
}

}  // namespace olmoe
