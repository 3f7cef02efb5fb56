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
  Keep keep;
  // Counts of the balancing loss, from those of the groups.
  std::function<at::Tensor(const at::Tensor& counts_GE)> balance_counts;
};

/// The losses of one layer and what their gradients need.
struct Losses {
  at::Tensor balance, z;  // float64 scalars
  at::Tensor dprobs_GE;   // d balance / d probability of a token of group g
  double dlse = 0;        // d z / d logsumexp, as a factor of logsumexp
};

Losses router_losses(const kernels::RouterOutput& routed, const at::Tensor& balance_counts_GE) {
  const auto& probs_TE = routed.probs_NE;
  const int64_t tokens = probs_TE.size(0), num_experts = probs_TE.size(1), groups = balance_counts_GE.size(0);
  Losses out;
  if (tokens == 0) {
    out.balance = out.z = at::zeros({}, probs_TE.options().dtype(at::kDouble));
    out.dprobs_GE = at::zeros({groups, num_experts}, probs_TE.options());
    return out;
  }
  const auto group_tokens = static_cast<double>(tokens / groups);
  const auto counts_GE = balance_counts_GE.to(at::kDouble);
  auto share_GE = counts_GE / counts_GE.sum(1, /*keepdim=*/true);
  auto mean_prob_GE = probs_TE.unflatten(0, {groups, tokens / groups}).mean(1, false, at::kDouble);
  const auto scale = static_cast<double>(num_experts) / static_cast<double>(groups);
  out.balance = (share_GE * mean_prob_GE).sum() * scale;
  out.z = routed.lse_N.to(at::kDouble).square().mean();
  out.dprobs_GE = (share_GE * (scale / group_tokens)).to(probs_TE.scalar_type());
  out.dlse = 2.0 / static_cast<double>(tokens);
  return out;
}

/// x_ND -> scores_NK and the weighted auxiliary loss; the choice itself is not differentiable.
struct RouteFunction : Function<RouteFunction> {
  static at::Tensor operand(const at::Tensor& x, bool upcast) {
    return upcast && x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
  }

  /// ids_NK undefined: chooses. Else follows the choice, with the same bits as when it was made.
  static kernels::RouterOutput route(const at::Tensor& x_ND, const at::Tensor& w_ED, const at::Tensor& ids_NK,
                                     const RouteOptions& options) {
    auto logits_NE = kernels::gemm(operand(x_ND, options.upcast), operand(w_ED, options.upcast));
    return kernels::route(logits_NE, options.top_k, options.groups, options.renormalize, ids_NK);
  }

  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_ND, const KeptRows& kept,
                               const at::Tensor& w_ED, const std::optional<at::Tensor>& given_ids_NK,
                               const RouteOptions& options) {
    auto routed = route(x_ND, w_ED, given_ids_NK.value_or(at::Tensor()), options);
    auto losses = router_losses(routed, options.balance_counts(routed.counts_UE));
    auto aux = losses.balance * options.balance_weight + losses.z * options.z_weight;
    auto stats = at::cat({losses.balance.view(1), losses.z.view(1), at::zeros({1}, losses.z.options()),
                          routed.counts_UE.sum(0).to(at::kDouble)});  // [3 + E], the third is for what is dropped

    variable_list saved{kept.x_ND, kept.norm_D, w_ED, losses.dprobs_GE * options.balance_weight, routed.ids_NK};
    if (options.keep == Keep::all)
      saved.insert(saved.end(), {routed.probs_NE, routed.lse_N, routed.scores_NK, routed.counts_UE});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["eps"] = kept.eps;
    ctx->saved_data["dlse"] = losses.dlse * options.z_weight;
    ctx->saved_data["renormalize"] = options.renormalize;
    ctx->saved_data["upcast"] = options.upcast;
    ctx->mark_non_differentiable({routed.ids_NK, stats});
    return {routed.scores_NK, aux, routed.ids_NK, stats};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const auto &w_ED = saved[2], &dprobs_GE = saved[3], &ids_NK = saved[4];
    const auto x_ND = KeptRows{saved[0], saved[1], data["eps"].toDouble()}.again();
    const RouteOptions options{ids_NK.size(1),
                               dprobs_GE.size(0),
                               data["renormalize"].toBool(),
                               data["upcast"].toBool(),
                               0,
                               0,
                               saved.size() > 5 ? Keep::all : Keep::least,
                               {}};
    const auto routed = options.keep == Keep::all
                            ? kernels::RouterOutput{saved[5], saved[6], ids_NK, saved[7], saved[8]}
                            : route(x_ND, w_ED, ids_NK, options);
    const auto daux = grads[1].defined() ? grads[1] : at::zeros({}, dprobs_GE.options().dtype(at::kDouble));
    auto dscores = grads[0].defined() ? grads[0].contiguous() : at::zeros_like(routed.scores_NK);
    auto dlogits_NE =
        kernels::route_backward(dscores, dprobs_GE * daux, daux * data["dlse"].toDouble(), routed, options.renormalize);
    if (!options.upcast) dlogits_NE = dlogits_NE.to(x_ND.scalar_type());
    kernels::gemm_weight_grad(dlogits_NE, operand(x_ND, options.upcast), weight_grad(w_ED));
    auto dx_ND = kernels::gemm_input_grad(dlogits_NE, operand(w_ED, options.upcast)).to(x_ND.scalar_type());
    return {dx_ND, {}, {}, {}, {}};
  }
};

}  // namespace

Router::Router(const ModelConfig& config, std::string prefix, Communicator& data)
    : config_(config), prefix_(std::move(prefix)), data_(data) {}

std::vector<Param> Router::params() {
  return {shared_param(prefix_ + ".weight", {config_.num_experts, config_.d_model}, ParamRole::router, w_ED_)};
}

at::Tensor Router::balance_counts(const at::Tensor& counts_GE, StageContext& context) {
  auto& counts = context.routing.balance_counts_GE;
  if (counts.defined()) return counts;
  counts = counts_GE;
  // An evaluation has no use for the loss.
  if (config_.load_balancing_granularity == BalanceGranularity::global && context.phase == Phase::train) {
    counts = counts_GE.clone();
    data_.all_reduce(counts);
  }
  return counts;
}

RouterOut Router::forward(const Normed& x, StageContext& context) {
  auto& routing = context.routing;
  const int64_t sequences = context.batch.ids_BS.size(0);
  const auto layers = static_cast<double>(config_.num_layers);
  const bool by_sequence = config_.load_balancing_granularity == BalanceGranularity::sequence;
  RouteOptions options{
      .top_k = config_.top_k,
      .groups = by_sequence && sequences > 0 ? sequences : 1,
      .renormalize = config_.renormalize_scores,
      .upcast = config_.router_dtype == RouterDtype::float32,
      .balance_weight = config_.load_balancing_weight / layers,
      .z_weight = config_.router_z_weight / layers,
      .keep = context.keep,
      .balance_counts = [&](const at::Tensor& counts_GE) { return balance_counts(counts_GE, context); }};
  auto out = RouteFunction::apply(x.y_ND, x.kept, w_ED_, std::optional(routing.ids_NK), options);
  if (!routing.ids_NK.defined()) routing.ids_NK = out[2].detach();
  const auto stats = out[3].detach();
  return {out[0], out[1], {stats.narrow(0, 0, 2), stats.narrow(0, 2, 1), stats.narrow(0, 3, config_.num_experts)}};
}

}  // namespace olmoe
