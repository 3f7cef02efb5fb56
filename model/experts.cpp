#include "model/experts.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/swiglu.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct ExpertsFunction : Function<ExpertsFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const KeptRows& kept,
                            const at::Tensor& scores_NK, const at::Tensor& ids_NK, const at::Tensor& gate_up,
                            const at::Tensor& down, const at::Tensor& residual_ND) {
    auto order = kernels::sort_by_expert(ids_NK, gate_up.size(0));
    auto scores_R = kernels::to_rows(scores_NK, order);
    auto z_R2F = kernels::grouped_gemm(kernels::gather_rows(x_ND, order), gate_up, order.offsets_E);
    auto y_RD = kernels::grouped_gemm(kernels::swiglu(z_R2F, scores_R), down, order.offsets_E);
    ctx->save_for_backward({kept.x_ND, z_R2F, scores_R, order.slot_R, order.row_TK, order.offsets_E, gate_up, down,
                            kept.norm_D});
    ctx->saved_data["eps"] = kept.eps;
    return kernels::combine_rows(y_RD, order, residual_ND);
  }

  struct DownGrads {
    at::Tensor dz_R2F, dscore_R;
  };
  /// Rows of dy and hidden rows live no longer than this.
  static DownGrads down_backward(const at::Tensor& dy_ND, const kernels::Permutation& order, const at::Tensor& scores_R,
                                 const at::Tensor& z_R2F, const at::Tensor& down) {
    auto dy_RD = kernels::gather_rows(dy_ND, order);
    auto d = kernels::swiglu_backward(kernels::grouped_gemm_input_grad(dy_RD, down, order.offsets_E), z_R2F, scores_R);
    kernels::grouped_gemm_weight_grad(dy_RD, d.h_RF, order.offsets_E, weight_grad(down));
    return {d.dz_R2F, d.dscore_R};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const KeptRows kept{saved[0], saved[8], ctx->saved_data["eps"].toDouble()};
    const auto &z_R2F = saved[1], &gate_up = saved[6], &down = saved[7];
    const kernels::Permutation order{saved[3], saved[4], saved[5]};
    auto dy_ND = grads[0].contiguous();
    auto d = down_backward(dy_ND, order, saved[2], z_R2F, down);
    kernels::grouped_gemm_weight_grad(d.dz_R2F, kernels::gather_rows(kept.again(), order), order.offsets_E,
                                      weight_grad(gate_up));
    auto dx_RD = kernels::grouped_gemm_input_grad(d.dz_R2F, gate_up, order.offsets_E);
    return {kernels::combine_rows(dx_RD, order, {}), {}, kernels::to_assignments(d.dscore_R, order), {}, {}, {}, dy_ND};
  }
};

}  // namespace

Experts::Experts(const ModelConfig& config, std::string prefix) : config_(config), prefix_(std::move(prefix)) {}

std::vector<Param> Experts::params() {
  const std::vector<int64_t> gate_up{config_.num_experts, 2 * config_.expert_width, config_.d_model};
  const std::vector<int64_t> down{config_.num_experts, config_.d_model, config_.expert_width};
  return {{prefix_ + ".gate_up.weight", gate_up, gate_up, 0, Axis::expert_shard, &gate_up_E2FD_},
          {prefix_ + ".down.weight", down, down, 0, Axis::expert_shard, &down_EDF_}};
}

at::Tensor Experts::forward(const Normed& x, const at::Tensor& scores_NK, const at::Tensor& ids_NK,
                            const at::Tensor& residual_ND) {
  return ExpertsFunction::apply(x.y_ND, x.kept, scores_NK, ids_NK, gate_up_E2FD_, down_EDF_, residual_ND);
}

}  // namespace olmoe
