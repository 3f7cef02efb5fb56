#include "model/experts.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "kernels/experts.h"
#include "kernels/permute.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Whether the next gradients are stored; the first backward of a pass takes the answer, the others add. Lives as long
/// as the weights.
struct Stores : torch::CustomClassHolder {
  Stores(bool& of_gate_up, bool& of_down) : gate_up(of_gate_up), down(of_down) {}
  static kernels::GradWrite take(bool& stores) {
    return std::exchange(stores, false) ? kernels::GradWrite::store : kernels::GradWrite::add;
  }
  bool &gate_up, &down;
};

/// Assignments of tokens to the experts here, their weights (leaves, of which the engine need not know), how they are
/// computed, and what becomes of weight gradients.
struct ExpertCall {
  const kernels::Permutation& order;
  const at::Tensor &gate_up_E2FD, &down_EDF;
  kernels::ExpertKernels kernels;
  c10::intrusive_ptr<Stores> stores;
};

struct ExpertsFunction : Function<ExpertsFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_MD, const KeptRows& kept,
                            const at::Tensor& scores_MK, const ExpertCall& call,
                            const std::optional<at::Tensor>& residual_MD) {
    const auto& order = call.order;
    auto scores_R = kernels::to_rows(scores_MK, order);
    auto [z_R2F, h_RF] = kernels::experts_up(call.kernels, x_MD, {order, scores_R}, call.gate_up_E2FD);
    auto y_RD = kernels::experts_down(call.kernels, h_RF, order, call.down_EDF);
    ctx->save_for_backward({kept.x_ND, z_R2F, scores_R, order.assignment_R, order.row_NK, order.offsets_E,
                            call.gate_up_E2FD, call.down_EDF, kept.norm_D});
    ctx->saved_data["eps"] = kept.eps;
    ctx->saved_data["kernels"] = static_cast<int64_t>(call.kernels);
    ctx->saved_data["residual"] = residual_MD.has_value();
    ctx->saved_data["stores"] = c10::IValue::make_capsule(call.stores);
    return kernels::combine_rows(y_RD, order, residual_MD.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const KeptRows kept{saved[0], saved[8], data["eps"].toDouble()};
    const auto kernels = static_cast<kernels::ExpertKernels>(data["kernels"].toInt());
    const auto &z_R2F = saved[1], &scores_R = saved[2], &gate_up = saved[6], &down = saved[7];
    const kernels::Permutation order{saved[3], saved[4], saved[5]};
    const auto stores = c10::static_intrusive_pointer_cast<Stores>(data["stores"].toCapsule());
    auto dy_MD = grads[0].contiguous();
    auto d = kernels::experts_down_backward(kernels, dy_MD, {order, scores_R}, z_R2F, down,
                                            {weight_grad(down), Stores::take(stores->down)});
    kernels::experts_up_weight_grad(kernels, d.dz_R2F, kept.again(), order,
                                    {weight_grad(gate_up), Stores::take(stores->gate_up)});
    auto dx_RD = kernels::experts_up_input_grad(kernels, d.dz_R2F, order, gate_up);
    return {kernels::combine_rows(dx_RD, order, {}),
            {},
            kernels::to_assignments(d.dscore_R, order),
            {},
            data["residual"].toBool() ? dy_MD : at::Tensor()};
  }
};

}  // namespace

Experts::Experts(const ModelConfig& config, std::string prefix, const Communicator& group,
                 kernels::ExpertKernels kernels)
    : config_(config),
      prefix_(std::move(prefix)),
      kernels_(kernels),
      first_(config.num_experts / group.size() * group.rank()),
      count_(config.num_experts / group.size()) {}

std::vector<Param> Experts::params() {
  const int64_t D = config_.d_model, F = config_.expert_width;
  const auto param = [&](const char* name, int64_t outputs, int64_t inputs, at::Tensor* slot, bool* to_store) {
    return Param{prefix_ + name,
                 {count_, outputs, inputs},
                 {config_.num_experts, outputs, inputs},
                 first_ * outputs * inputs,
                 Axis::expert_shard,
                 slot,
                 to_store};
  };
  return {param(".gate_up.weight", 2 * F, D, &gate_up_e2FD_, &store_gate_up_),
          param(".down.weight", D, F, &down_eDF_, &store_down_)};
}

at::Tensor Experts::forward(const Normed& x, const at::Tensor& scores_MK, const kernels::Permutation& rows,
                            const std::optional<at::Tensor>& residual_MD) {
  const auto stores = c10::make_intrusive<Stores>(store_gate_up_, store_down_);
  const ExpertCall call{rows, gate_up_e2FD_, down_eDF_, kernels_, stores};
  return ExpertsFunction::apply(x.y_ND, x.kept, scores_MK, call, residual_MD);
}

}  // namespace olmoe
