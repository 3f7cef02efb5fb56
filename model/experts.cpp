#include "model/experts.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/experts.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "model/layers.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct ExpertsFunction : Function<ExpertsFunction> {
  static at::Tensor forward(AutogradContext* ctx, kernels::ExpertKernels kernels, const at::Tensor& x_ND,
                            const at::Tensor& scores_NK, const at::Tensor& ids_NK, const at::Tensor& gate_up,
                            const at::Tensor& down, const at::Tensor& residual_ND) {
    auto order = kernels::sort_by_expert(ids_NK, gate_up.size(0));
    auto scores_R = kernels::to_rows(scores_NK, order);
    auto [z_R2F, h_RF] = kernels::experts_up(kernels, x_ND, {order, scores_R}, gate_up);
    auto y_RD = kernels::grouped_gemm(h_RF, down, order.offsets_E);
    ctx->saved_data["kernels"] = static_cast<int64_t>(kernels);
    ctx->save_for_backward({x_ND, z_R2F, scores_R, order.slot_R, order.row_TK, order.offsets_E, gate_up, down});
    return kernels::combine_rows(y_RD, order, residual_ND);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const auto kernels = static_cast<kernels::ExpertKernels>(ctx->saved_data["kernels"].toInt());
    const auto &x_ND = saved[0], &z_R2F = saved[1], &scores_R = saved[2], &gate_up = saved[6], &down = saved[7];
    const kernels::Permutation order{saved[3], saved[4], saved[5]};
    auto dy_ND = grads[0].contiguous();
    auto d = kernels::experts_down_backward(kernels, dy_ND, {order, scores_R}, z_R2F, down, weight_grad(down));
    kernels::experts_up_weight_grad(kernels, d.dz_R2F, x_ND, order, weight_grad(gate_up));
    auto dx_RD = kernels::grouped_gemm_input_grad(d.dz_R2F, gate_up, order.offsets_E);
    return {{}, kernels::combine_rows(dx_RD, order, {}), kernels::to_assignments(d.dscore_R, order), {}, {}, {}, dy_ND};
  }
};

}  // namespace

Experts::Experts(const ModelConfig& config, std::string prefix, kernels::ExpertKernels kernels)
    : config_(config), prefix_(std::move(prefix)), kernels_(kernels) {}

std::vector<Param> Experts::params() {
  const std::vector<int64_t> gate_up{config_.num_experts, 2 * config_.expert_width, config_.d_model};
  const std::vector<int64_t> down{config_.num_experts, config_.d_model, config_.expert_width};
  return {{prefix_ + ".gate_up.weight", gate_up, gate_up, 0, Axis::expert_shard, &gate_up_E2FD_},
          {prefix_ + ".down.weight", down, down, 0, Axis::expert_shard, &down_EDF_}};
}

at::Tensor Experts::forward(const at::Tensor& x_ND, const at::Tensor& scores_NK, const at::Tensor& ids_NK,
                            const at::Tensor& residual_ND) {
  return ExpertsFunction::apply(kernels_, x_ND, scores_NK, ids_NK, gate_up_E2FD_, down_EDF_, residual_ND);
}

}  // namespace olmoe
