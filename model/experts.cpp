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
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_MD, const KeptRows& kept,
                            const at::Tensor& scores_MK, const kernels::Permutation& order, const at::Tensor& gate_up,
                            const at::Tensor& down, const std::optional<at::Tensor>& residual_MD) {
    auto scores_R = kernels::to_rows(scores_MK, order);
    auto z_R2F = kernels::grouped_gemm(kernels::gather_rows(x_MD, order), gate_up, order.offsets_E);
    auto y_RD = kernels::grouped_gemm(kernels::swiglu(z_R2F, scores_R), down, order.offsets_E);
    ctx->save_for_backward({kept.x_ND, z_R2F, scores_R, order.slot_R, order.row_TK, order.offsets_E, gate_up, down,
                            kept.norm_D});
    ctx->saved_data["eps"] = kept.eps;
    ctx->saved_data["residual"] = residual_MD.has_value();
    return kernels::combine_rows(y_RD, order, residual_MD.value_or(at::Tensor()));
  }

  struct DownGrads {
    at::Tensor dz_R2F, dscore_R;
  };
  /// Rows of dy and hidden rows live no longer than this.
  static DownGrads down_backward(const at::Tensor& dy_MD, const kernels::Permutation& order, const at::Tensor& scores_R,
                                 const at::Tensor& z_R2F, const at::Tensor& down) {
    auto dy_RD = kernels::gather_rows(dy_MD, order);
    auto d = kernels::swiglu_backward(kernels::grouped_gemm_input_grad(dy_RD, down, order.offsets_E), z_R2F, scores_R);
    kernels::grouped_gemm_weight_grad(dy_RD, d.h_RF, order.offsets_E, weight_grad(down));
    return {d.dz_R2F, d.dscore_R};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const KeptRows kept{saved[0], saved[8], ctx->saved_data["eps"].toDouble()};
    const auto &z_R2F = saved[1], &gate_up = saved[6], &down = saved[7];
    const kernels::Permutation order{saved[3], saved[4], saved[5]};
    auto dy_MD = grads[0].contiguous();
    auto d = down_backward(dy_MD, order, saved[2], z_R2F, down);
    kernels::grouped_gemm_weight_grad(d.dz_R2F, kernels::gather_rows(kept.again(), order), order.offsets_E,
                                      weight_grad(gate_up));
    auto dx_RD = kernels::grouped_gemm_input_grad(d.dz_R2F, gate_up, order.offsets_E);
    return {kernels::combine_rows(dx_RD, order, {}), {}, kernels::to_assignments(d.dscore_R, order), {}, {}, {},
            ctx->saved_data["residual"].toBool() ? dy_MD : at::Tensor()};
  }
};

}  // namespace

Experts::Experts(const ModelConfig& config, std::string prefix, const Communicator& group)
    : config_(config),
      prefix_(std::move(prefix)),
      first_(config.num_experts / group.size() * group.rank()),
      count_(config.num_experts / group.size()) {}

std::vector<Param> Experts::params() {
  const int64_t D = config_.d_model, F = config_.expert_width;
  const auto param = [&](const char* name, int64_t outputs, int64_t inputs, at::Tensor* slot) {
    return Param{prefix_ + name, {count_, outputs, inputs}, {config_.num_experts, outputs, inputs},
                 first_ * outputs * inputs, Axis::expert_shard, slot};
  };
  return {param(".gate_up.weight", 2 * F, D, &gate_up_e2FD_), param(".down.weight", D, F, &down_eDF_)};
}

at::Tensor Experts::forward(const Normed& x, const at::Tensor& scores_MK, const kernels::Permutation& rows,
                            const std::optional<at::Tensor>& residual_MD) {
  return ExpertsFunction::apply(x.y_ND, x.kept, scores_MK, rows, gate_up_e2FD_, down_eDF_, residual_MD);
}

}  // namespace olmoe
