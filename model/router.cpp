#include "model/router.h"

#include <torch/csrc/autograd/custom_function.h>

#include <functional>

#include "kernels/grouped_gemm.h"
#include "kernels/router.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct RouteOptions {
  int64_t top_k, groups;
  bool renormalize, upcast;
  double balance_weight, z_weight;  // alpha / L, beta / L
  SavePolicy save_policy;
  // Assignments that the load-balancing loss is computed from, given those of this rank.
  std::function<at::Tensor(const at::Tensor& counts_UE)> balance_counts;
};

/// The losses of one layer, and the factors of their gradients.
struct Losses {
  at::Tensor balance, z;  // float64 scalars
  at::Tensor dprobs_UE;   // d balance / d probability, for each token of a group
  double dlse = 0;        // d z / d logsumexp, as a factor of logsumexp
};

Losses router_losses(const kernels::RouterOutput& routed, const at::Tensor& balance_counts_UE) {
  const auto& probs_NE = routed.probs_NE;
  const int64_t tokens = probs_NE.size(0), num_experts = probs_NE.size(1), groups = balance_counts_UE.size(0);
  Losses out;
  if (tokens == 0) {
    out.balance = out.z = at::zeros({}, probs_NE.options().dtype(at::kDouble));
    out.dprobs_UE = at::zeros({groups, num_experts}, probs_NE.options());
    return out;
  }
  const auto group_tokens = static_cast<double>(tokens / groups);
  const auto counts_UE = balance_counts_UE.to(at::kDouble);
  auto share_UE = counts_UE / counts_UE.sum(1, /*keepdim=*/true);
  auto mean_prob_UE = probs_NE.unflatten(0, {groups, tokens / groups}).mean(1, false, at::kDouble);
  const auto scale = static_cast<double>(num_experts) / static_cast<double>(groups);
  out.balance = (share_UE * mean_prob_UE).sum() * scale;
  out.z = routed.lse_N.to(at::kDouble).square().mean();
  out.dprobs_UE = (share_UE * (scale / group_tokens)).to(probs_NE.scalar_type());
  out.dlse = 2.0 / static_cast<double>(tokens);
  return out;
}

/// x_ND -> scores_NK and the weighted auxiliary loss; the choice of experts is not differentiable.
struct RouteFunction : Function<RouteFunction> {
  static at::Tensor operand(const at::Tensor& x, bool upcast) {
    return upcast && x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
  }

  /// Chooses experts if ids_NK is undefined; else uses that choice, with the same bits as when it was made.
  static kernels::RouterOutput route(const at::Tensor& x_ND, const at::Tensor& w_ED, const at::Tensor& ids_NK,
                                     const RouteOptions& options) {
    auto logits_NE = kernels::gemm(operand(x_ND, options.upcast), operand(w_ED, options.upcast));
    return kernels::route(logits_NE, options.top_k, options.groups, options.renormalize, ids_NK);
  }

  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_ND, const SavedNorm& saved_x,
                               const at::Tensor& w_ED, const std::optional<at::Tensor>& given_ids_NK,
                               const RouteOptions& options) {
    auto routed = route(x_ND, w_ED, given_ids_NK.value_or(at::Tensor()), options);
    auto losses = router_losses(routed, options.balance_counts(routed.counts_UE));
    auto aux = losses.balance * options.balance_weight + losses.z * options.z_weight;
    auto stats = at::cat({losses.balance.view(1), losses.z.view(1), at::zeros({1}, losses.z.options()),
                          routed.counts_UE.sum(0).to(at::kDouble)});  // [3 + E]; the third: dropped

    variable_list saved{saved_x.x_ND, saved_x.norm_D, w_ED, losses.dprobs_UE * options.balance_weight, routed.ids_NK};
    if (options.save_policy == SavePolicy::all)
      saved.insert(saved.end(), {routed.probs_NE, routed.lse_N, routed.scores_NK, routed.counts_UE});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["eps"] = saved_x.eps;
    ctx->saved_data["dlse"] = losses.dlse * options.z_weight;
    ctx->saved_data["renormalize"] = options.renormalize;
    ctx->saved_data["upcast"] = options.upcast;
    ctx->mark_non_differentiable({routed.ids_NK, stats});
    return {routed.scores_NK, aux, routed.ids_NK, stats};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const auto &w_ED = saved[2], &dprobs_UE = saved[3], &ids_NK = saved[4];
    const auto x_ND = SavedNorm{saved[0], saved[1], data["eps"].toDouble()}.recompute();
    const RouteOptions options{ids_NK.size(1),
                               dprobs_UE.size(0),
                               data["renormalize"].toBool(),
                               data["upcast"].toBool(),
                               0,
                               0,
                               saved.size() > 5 ? SavePolicy::all : SavePolicy::selective,
                               {}};
    const auto routed = options.save_policy == SavePolicy::all
                            ? kernels::RouterOutput{saved[5], saved[6], ids_NK, saved[7], saved[8]}
                            : route(x_ND, w_ED, ids_NK, options);
    const auto daux = grads[1].defined() ? grads[1] : at::zeros({}, dprobs_UE.options().dtype(at::kDouble));
    auto dscores = grads[0].defined() ? grads[0].contiguous() : at::zeros_like(routed.scores_NK);
    auto dlogits_NE =
        kernels::route_backward(dscores, dprobs_UE * daux, daux * data["dlse"].toDouble(), routed, options.renormalize);
    if (!options.upcast) dlogits_NE = dlogits_NE.to(x_ND.scalar_type());
    kernels::gemm_weight_grad(dlogits_NE, operand(x_ND, options.upcast), weight_grad(w_ED));
    auto dx_ND = kernels::gemm_input_grad(dlogits_NE, operand(w_ED, options.upcast)).to(x_ND.scalar_type());
    return {dx_ND, {}, {}, {}, {}};
  }
};

}  // namespace

Router::Router(const ModelConfig& config, std::string prefix, Communicator& data)
    : config_(config), prefix_(std::move(prefix)), data_(data) {}

StageState Router::state() {
  return {{shared_param(prefix_ + ".weight", {config_.num_experts, config_.d_model}, ParamRole::router, w_ED_)}};
}

at::Tensor Router::balance_counts(const at::Tensor& counts_UE, StageContext& context) {
  auto& counts = context.routing.balance_counts_UE;
  if (counts.defined()) return counts;
  counts = counts_UE;
  // Only training uses the loss.
  if (config_.load_balancing_granularity == BalanceGranularity::global && context.phase == Phase::train) {
    counts = counts_UE.clone();
    data_.all_reduce(counts);
  }
  return counts;
}

RouterOut Router::forward(const Normed& x, StageContext& context) {
  auto& routing = context.routing;
  const int64_t sequences = context.batch.ids_BS.size(0);
  const auto layers = static_cast<double>(config_.num_moe_layers());
  const bool by_sequence = config_.load_balancing_granularity == BalanceGranularity::sequence;
  RouteOptions options{
      .top_k = config_.top_k,
      .groups = by_sequence && sequences > 0 ? sequences : 1,
      .renormalize = config_.renormalize_scores,
      .upcast = config_.router_dtype == RouterDtype::float32,
      .balance_weight = config_.load_balancing_weight / layers,
      .z_weight = config_.router_z_weight / layers,
      .save_policy = context.save_policy,
      .balance_counts = [&](const at::Tensor& counts_UE) { return balance_counts(counts_UE, context); }};
  auto out = RouteFunction::apply(x.y_ND, x.saved, w_ED_, std::optional(routing.ids_NK), options);
  if (!routing.ids_NK.defined()) routing.ids_NK = out[2].detach();
  const auto stats = out[3].detach();
  return {out[0], out[1], {stats.narrow(0, 0, 2), stats.narrow(0, 2, 1), stats.narrow(0, 3, config_.num_experts)}};
}

StageCost Router::cost(const CostContext& context) const {
  constexpr int64_t kId = sizeof(int32_t), kCount = sizeof(int64_t), kStat = sizeof(double);
  const int64_t tokens = context.tokens(), D = config_.d_model, E = config_.num_experts, K = config_.top_k;
  const int64_t master = context.master_bytes;
  const bool recomputes = context.save_policy == SavePolicy::selective;
  const auto N = static_cast<double>(tokens), d = static_cast<double>(D), e = static_cast<double>(E);
  auto gemm = linear_work("router product", 2 * N * d * e, N * (d + e), d * e, context);
  const double logits = N * e * static_cast<double>(context.value_bytes + master);
  auto routing = memory_work("routing", logits, logits);
  if (recomputes)
    for (auto* part : {&gemm, &routing}) part->backward.add(part->forward);

  const int64_t groups = config_.load_balancing_granularity == BalanceGranularity::sequence ? context.sequences : 1;
  StageCost out{.work = {gemm, routing}};
  const int64_t rows = tokens * D * context.value_bytes, routed = tokens * (E + 1 + K) * master;
  out.routing = tokens * K * kId;
  out.saved = out.routing + E * (groups * master + kStat);  // gradients of the balancing loss; the statistics
  // Probabilities, log-sum-exp and scores of each token; counts.
  if (!recomputes) out.saved += routed + E * groups * kCount;
  // Gradients of scores, logits and x, this once more where it was computed in another dtype; what was not saved.
  const bool upcast = config_.router_dtype == RouterDtype::float32 && context.value_bytes < master;
  out.peaks = {
      {"backward of the last router", out.saved,
       tokens * (K + E) * master + rows + (upcast ? tokens * D * master : 0) + (recomputes ? rows + routed : 0)}};
  return out;
}

}  // namespace olmoe
