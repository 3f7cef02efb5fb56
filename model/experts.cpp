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

/// Whether the next backward stores the weight gradients. The first backward after the buffers were claimed clears the
/// flags; later ones add. Must not outlive the layer.
struct StoreFlags : torch::CustomClassHolder {
  StoreFlags(bool& of_gate_up, bool& of_down) : gate_up(of_gate_up), down(of_down) {}
  static kernels::GradWrite take(bool& store) {
    return std::exchange(store, false) ? kernels::GradWrite::store : kernels::GradWrite::add;
  }
  bool &gate_up, &down;
};

/// Operands of a call that the autograd engine does not see: the assignments to the experts of this rank, the weights
/// (their gradients are written by the backward itself), the kernels, and how gradients are written.
struct ExpertCall {
  const kernels::Permutation& order;
  const at::Tensor &gate_up_E2FD, &down_EDF;
  kernels::ExpertKernels kernels;
  c10::intrusive_ptr<StoreFlags> store;
};

struct ExpertsFunction : Function<ExpertsFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_MD, const SavedNorm& saved_x,
                            const at::Tensor& scores_MK, const ExpertCall& call,
                            const std::optional<at::Tensor>& residual_MD) {
    const auto& order = call.order;
    auto scores_R = kernels::to_rows(scores_MK, order);
    auto [z_R2F, h_RF] = kernels::experts_up(call.kernels, x_MD, {order, scores_R}, call.gate_up_E2FD);
    auto y_RD = kernels::experts_down(call.kernels, h_RF, order, call.down_EDF);
    ctx->save_for_backward({saved_x.x_ND, z_R2F, scores_R, order.assignment_R, order.row_NK, order.offsets_E,
                            call.gate_up_E2FD, call.down_EDF, saved_x.norm_D});
    ctx->saved_data["eps"] = saved_x.eps;
    ctx->saved_data["kernels"] = static_cast<int64_t>(call.kernels);
    ctx->saved_data["residual"] = residual_MD.has_value();
    ctx->saved_data["store"] = c10::IValue::make_capsule(call.store);
    return kernels::combine_rows(y_RD, order, residual_MD.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const SavedNorm saved_x{saved[0], saved[8], data["eps"].toDouble()};
    const auto kernels = static_cast<kernels::ExpertKernels>(data["kernels"].toInt());
    const auto &z_R2F = saved[1], &scores_R = saved[2], &gate_up = saved[6], &down = saved[7];
    const kernels::Permutation order{saved[3], saved[4], saved[5]};
    const auto store = c10::static_intrusive_pointer_cast<StoreFlags>(data["store"].toCapsule());
    auto dy_MD = grads[0].contiguous();
    auto d = kernels::experts_down_backward(kernels, dy_MD, {order, scores_R}, z_R2F, down,
                                            {weight_grad(down), StoreFlags::take(store->down)});
    kernels::experts_up_weight_grad(kernels, d.dz_R2F, saved_x.recompute(), order,
                                    {weight_grad(gate_up), StoreFlags::take(store->gate_up)});
    auto dx_RD = kernels::experts_up_input_grad(kernels, d.dz_R2F, order, gate_up);
    return {kernels::combine_rows(dx_RD, order, {}),
            {},
            kernels::to_assignments(d.dscore_R, order),
            {},
            data["residual"].toBool() ? dy_MD : at::Tensor()};
  }
};

/// Sizes of a micro-batch's experts on one rank, as floating point: they are multiplied beyond 63 bits.
struct ExpertSizes {
  double rows, D, F, elements;  ///< elements of one matrix D x F of every expert
  int64_t experts;
};

/// The GEMMs of gate and up, and of down. Fused ones write the hidden rows beside z.
std::vector<GroupedGemm> forward_gemms(const ExpertSizes& s, const CostContext& context) {
  const auto value = static_cast<double>(context.value_bytes);
  const auto gemm = [&](std::string_view name, double n, double k, double row, double weights) {
    return GroupedGemm{
        name, s.rows, s.experts, 0, static_cast<int64_t>(n), static_cast<int64_t>(k), value * (s.rows * row + weights)};
  };
  const double hidden = context.fused_experts() ? s.F : 0;
  return {gemm("up", 2 * s.F, s.D, s.D + 2 * s.F + hidden, 2 * s.elements),
          gemm("down", s.D, s.F, s.F + s.D, s.elements)};
}

/// Fused, the gradient of hidden rows is not written: z is read, its gradient and the hidden rows are written; and sums
/// of weight gradients are read and written, or stored. Unfused, those are written and added by a pass of their own.
std::vector<GroupedGemm> backward_gemms(const ExpertSizes& s, const CostContext& context) {
  const bool fused = context.fused_experts();
  const auto value = static_cast<double>(context.value_bytes), master = static_cast<double>(context.master_bytes);
  const double grad = fused ? (2 - context.stored_share) * master : value;
  const auto D = static_cast<int64_t>(s.D), F = static_cast<int64_t>(s.F);
  const auto gemm = [&](std::string_view name, int64_t m, int64_t n, int64_t k, double row, double other) {
    return GroupedGemm{name, s.rows, s.experts, m, n, k, value * s.rows * row + other};
  };
  return {gemm("down backward", 0, F, D, fused ? s.D + 5 * s.F : s.D + s.F, value * s.elements),
          gemm("down gradient", D, F, 0, s.D + s.F, grad * s.elements),
          gemm("up gradient", D, 2 * F, 0, s.D + 2 * s.F, grad * 2 * s.elements),
          gemm("dx", 0, D, 2 * F, 2 * s.F + s.D, value * 2 * s.elements)};
}

std::vector<Work> expert_work(const ExpertSizes& s, const CostContext& context) {
  std::vector<Work> out{
      {"experts", Bound::grouped_gemm, cost_of(forward_gemms(s, context)), cost_of(backward_gemms(s, context))}};
  if (context.fused_experts()) return out;
  const auto value = static_cast<double>(context.value_bytes), master = static_cast<double>(context.master_bytes);
  const double gated = s.rows * s.F * value, row = s.rows * s.D * value;
  out.push_back(memory_work("SwiGLU", 3 * gated, 6 * gated));
  out.push_back(memory_work("permute", 2 * row, 4 * row));  // rows of x; backward those again, and of dy
  out.push_back(memory_work("expert gradient sums", 0, 3 * s.elements * (value + (2 - context.stored_share) * master)));
  return out;
}

/// What the backward of one chunk of tokens allocates, of experts of hidden width F.
int64_t expert_temporaries(const ModelConfig& config, int64_t F, const CostContext& context) {
  const bool dispatched = context.expert_ranks > 1, fused = context.fused_experts();
  const int64_t D = config.expert_dim(), value = context.value_bytes;
  const int64_t chunks = dispatched ? context.expert_chunks : 1;
  const int64_t rows = context.routed_rows(config) / chunks, received = context.expert_tokens(config) / chunks;
  const int64_t hidden = rows * F * value, wide = rows * D * value, token_rows = received * D * value;
  // What was dispatched, or projected, is saved; other rows are normed again for the gradients of weights.
  const bool normed = !dispatched && config.latent_dim == 0;
  const int64_t recomputed = context.save_policy == SavePolicy::selective && normed ? token_rows : 0;
  // Gradients of z and hidden rows; then the former with rows of dx and their sums.
  if (fused) return std::max(3 * hidden, 2 * hidden + std::max(recomputed, wide + token_rows));
  // A GPU makes weight gradients of gate and up in the compute dtype before they are added; those of down are half.
  const int64_t products = context.on_gpu ? config.num_experts / context.expert_ranks * 2 * F * D * value : 0;
  // Rows of dy, gradients of z, hidden rows; their gradients, then those of the weight.
  const int64_t down = wide + 3 * hidden + std::max(hidden, products / 2);
  // Gradients of z; rows of x (and the normed copy) with the gradients of the weight, then of dx with their sums.
  const int64_t up = wide + 2 * hidden + std::max(token_rows, recomputed + products);
  return std::max(down, up);
}

}  // namespace

Experts::Experts(const ModelConfig& config, std::string prefix, int64_t hidden, const Communicator& group,
                 kernels::ExpertKernels kernels)
    : config_(config),
      prefix_(std::move(prefix)),
      hidden_(hidden),
      kernels_(kernels),
      first_(config.num_experts / group.size() * group.rank()),
      count_(config.num_experts / group.size()) {}

StageState Experts::state() {
  const int64_t D = config_.expert_dim(), F = hidden_;
  const auto param = [&](const char* name, int64_t outputs, int64_t inputs, at::Tensor* slot, bool* to_store,
                         ParamRole role) {
    return Param{prefix_ + name,
                 {count_, outputs, inputs},
                 {config_.num_experts, outputs, inputs},
                 first_ * outputs * inputs,
                 Axis::expert_shard,
                 slot,
                 to_store,
                 role};
  };
  auto gate_up = param(".gate_up.weight", 2 * F, D, &gate_up_e2FD_, &store_gate_up_, ParamRole::matrix);
  gate_up.parts = {{F, F}};
  // What is added to the residual is the output of the latent up-projection where there is one.
  const auto down = config_.latent_dim > 0 ? ParamRole::matrix : ParamRole::output;
  return {{gate_up, param(".down.weight", D, F, &down_eDF_, &store_down_, down)}};
}

at::Tensor Experts::forward(const Normed& x, const at::Tensor& scores_MK, const kernels::Permutation& rows,
                            const std::optional<at::Tensor>& residual_MD) {
  const auto store = c10::make_intrusive<StoreFlags>(store_gate_up_, store_down_);
  const ExpertCall call{rows, gate_up_e2FD_, down_eDF_, kernels_, store};
  return ExpertsFunction::apply(x.y_ND, x.saved, scores_MK, call, residual_MD);
}

at::Tensor Experts::output_peaks(const at::Tensor& x_MD, const kernels::Permutation& rows) const {
  at::NoGradGuard no_grad;
  auto peaks_E = at::zeros({config_.num_experts}, at::kDouble);
  const auto score_dtype = x_MD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto ones_R = at::ones({rows.assignment_R.size(0)}, x_MD.options().dtype(score_dtype));
  const auto h_RF = kernels::experts_up(kernels_, x_MD, {rows, ones_R}, gate_up_e2FD_).h_RF;
  const auto y_RD = kernels::experts_down(kernels_, h_RF, rows, down_eDF_);
  const auto ends = rows.offsets_E.cpu();
  const auto* const end = ends.const_data_ptr<int32_t>();
  for (int64_t e = 0, begin = 0; e < count_; begin = end[e++])
    if (end[e] > begin) peaks_E[first_ + e] = y_RD.narrow(0, begin, end[e] - begin).abs().max().to(at::kDouble).cpu();
  return peaks_E;
}

StageCost Experts::cost(const CostContext& context) const {
  constexpr int64_t kIndex = sizeof(int32_t);
  const int64_t rows = context.routed_rows(config_), F = hidden_;
  const int64_t experts = config_.num_experts / context.expert_ranks;
  const ExpertSizes sizes{.rows = static_cast<double>(rows),
                          .D = static_cast<double>(config_.expert_dim()),
                          .F = static_cast<double>(F),
                          .elements = static_cast<double>(experts * config_.expert_dim() * F),
                          .experts = experts};
  StageCost out{.work = expert_work(sizes, context)};
  // Places of assignments among the rows, and of rows among assignments.
  out.routing = (context.tokens() * config_.choices() + rows) * kIndex;
  out.saved = out.routing + rows * (2 * F * context.value_bytes + context.master_bytes) +  // z and scores
              config_.num_experts * kIndex;                                                // offsets
  out.peaks = {{"backward of the last feed-forward", out.saved, expert_temporaries(config_, F, context)}};
  return out;
}

}  // namespace olmoe
