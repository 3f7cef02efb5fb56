#include "model/router.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>

#include "kernels/grouped_gemm.h"
#include "kernels/router.h"
#include "model/block/expert_capacity.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct RouteOptions {
  int64_t top_k, groups;
  Scoring scoring;
  bool upcast;
  double balance_weight, z_weight;  // alpha / L, beta / L
  SavePolicy save_policy;
  // Assignments that the load-balancing loss is computed from, given those of this rank.
  std::function<at::Tensor(const at::Tensor& counts_UE)> balance_counts;
  // The choice for logits, undefined to leave it to the scoring.
  std::function<at::Tensor(const at::Tensor& logits_NE)> choose;
};

struct Routed {
  kernels::RouterOutput out;
  at::Tensor logits_NE;  // defined where the scoring's backward reads them
};

/// The losses of one layer, and the factors of their gradients.
struct Losses {
  at::Tensor balance, z;  // float64 scalars
  at::Tensor entropy;     // float64 scalar: no loss, reported beside them
  at::Tensor dprobs_UE;   // d balance / d probability, for each token of a group
  double dlse = 0;        // d z / d logsumexp, as a factor of logsumexp
};

Losses router_losses(const at::Tensor& probs_NE, const at::Tensor& lse_N, const at::Tensor& balance_counts_UE) {
  const int64_t tokens = probs_NE.size(0), num_experts = probs_NE.size(1), groups = balance_counts_UE.size(0);
  Losses out;
  if (tokens == 0) {
    out.balance = out.z = out.entropy = at::zeros({}, probs_NE.options().dtype(at::kDouble));
    out.dprobs_UE = at::zeros({groups, num_experts}, probs_NE.options());
    return out;
  }
  const auto group_tokens = static_cast<double>(tokens / groups);
  const auto counts_UE = balance_counts_UE.to(at::kDouble);
  auto share_UE = counts_UE / counts_UE.sum(1, /*keepdim=*/true);
  auto mean_prob_UE = probs_NE.unflatten(0, {groups, tokens / groups}).mean(1, false, at::kDouble);
  const auto scale = static_cast<double>(num_experts) / static_cast<double>(groups);
  out.balance = (share_UE * mean_prob_UE).sum() * scale;
  out.z = lse_N.to(at::kDouble).square().mean();
  out.entropy = at::special_entr(probs_NE).sum(at::kDouble) / static_cast<double>(tokens);
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
  static Routed route(const at::Tensor& x_ND, const at::Tensor& w_ED, const at::Tensor& ids_NK,
                      const RouteOptions& options) {
    auto logits_NE = kernels::gemm(operand(x_ND, options.upcast), operand(w_ED, options.upcast));
    const auto ids = ids_NK.defined() ? ids_NK : options.choose(logits_NE);
    auto out = options.scoring.forward(logits_NE, options.top_k, options.groups, ids);
    return {std::move(out), options.scoring.needs_logits() ? logits_NE : at::Tensor()};
  }

  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_ND, const SavedNorm& saved_x,
                               const at::Tensor& w_ED, const std::optional<at::Tensor>& given_ids_NK,
                               const RouteOptions& options) {
    const auto [routed, logits_NE] = route(x_ND, w_ED, given_ids_NK.value_or(at::Tensor()), options);
    auto losses =
        router_losses(options.scoring.balance_probs(routed), routed.lse_N, options.balance_counts(routed.counts_UE));
    auto aux = losses.balance * options.balance_weight + losses.z * options.z_weight;
    auto stats = at::cat({losses.balance.view(1), losses.z.view(1), at::zeros({1}, losses.z.options()),
                          losses.entropy.view(1), routed.counts_UE.sum(0).to(at::kDouble)});  // the third: dropped

    variable_list saved{saved_x.x_ND, saved_x.norm_D, w_ED, losses.dprobs_UE * options.balance_weight, routed.ids_NK};
    if (options.save_policy == SavePolicy::all)
      saved.insert(saved.end(), {logits_NE.defined() ? logits_NE : routed.probs_NE, routed.lse_N, routed.scores_NK,
                                 routed.counts_UE});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["eps"] = saved_x.eps;
    ctx->saved_data["dlse"] = losses.dlse * options.z_weight;
    ctx->saved_data["sigmoid"] = options.scoring.score() == RouterScore::sigmoid;
    ctx->saved_data["renormalize"] = options.scoring.renormalizes();
    ctx->saved_data["upcast"] = options.upcast;
    ctx->mark_non_differentiable({routed.ids_NK, stats});
    return {routed.scores_NK, aux, routed.ids_NK, stats};
  }

  static Routed saved_route(const variable_list& saved, const Scoring& scoring) {
    const auto& kept_NE = saved[5];
    if (!scoring.needs_logits()) return {{kept_NE, saved[6], saved[4], saved[7], saved[8]}, {}};
    return {{Scoring::probs_of(kept_NE), saved[6], saved[4], saved[7], saved[8]}, kept_NE};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const auto &w_ED = saved[2], &dprobs_UE = saved[3], &ids_NK = saved[4];
    const auto x_ND = SavedNorm{saved[0], saved[1], data["eps"].toDouble()}.recompute();
    const RouteOptions options{
        ids_NK.size(1),
        dprobs_UE.size(0),
        Scoring(data["sigmoid"].toBool() ? RouterScore::sigmoid : RouterScore::softmax, data["renormalize"].toBool()),
        data["upcast"].toBool(),
        0,
        0,
        saved.size() > 5 ? SavePolicy::all : SavePolicy::selective,
        {},
        {}};
    const auto routed = options.save_policy == SavePolicy::all ? saved_route(saved, options.scoring)
                                                               : route(x_ND, w_ED, ids_NK, options);
    const auto daux = grads[1].defined() ? grads[1] : at::zeros({}, dprobs_UE.options().dtype(at::kDouble));
    auto dscores = grads[0].defined() ? grads[0].contiguous() : at::zeros_like(routed.out.scores_NK);
    auto dlogits_NE = options.scoring.backward(dscores, dprobs_UE * daux, daux * data["dlse"].toDouble(), routed.out,
                                               routed.logits_NE);
    if (!options.upcast) dlogits_NE = dlogits_NE.to(x_ND.scalar_type());
    kernels::gemm_weight_grad(dlogits_NE, operand(x_ND, options.upcast), weight_grad(w_ED));
    auto dx_ND = kernels::gemm_input_grad(dlogits_NE, operand(w_ED, options.upcast)).to(x_ND.scalar_type());
    return {dx_ND, {}, {}, {}, {}};
  }
};

}  // namespace

Router::Router(const ModelConfig& config, std::string prefix, Communicator& data)
    : config_(config),
      prefix_(std::move(prefix)),
      data_(data),
      scoring_(config.router_score, config.renormalize_scores),
      bias_(config) {
  if (config.load_balancing_granularity == BalanceGranularity::previous_step)
    previous_counts_E_ = at::ones({config.num_experts}, at::kDouble);
}

StageState Router::state() {
  StageState out{{shared_param(prefix_ + ".weight", {config_.num_experts, config_.d_model}, ParamRole::router, w_ED_)}};
  if (bias_) out.buffers.push_back(bias_.buffer(prefix_ + ".balancing_bias"));
  if (previous_counts_E_.defined()) out.buffers.push_back({prefix_ + ".previous_counts", &previous_counts_E_});
  return out;
}

at::Tensor Router::balance_counts(const at::Tensor& counts_UE, StageContext& context) {
  auto& counts = context.routing.balance_counts_UE;
  if (counts.defined()) return counts;
  counts = counts_UE;
  if (context.phase != Phase::train) return counts;  // only training uses the loss
  switch (config_.load_balancing_granularity) {
    case BalanceGranularity::micro_batch:
    case BalanceGranularity::sequence:
      break;
    case BalanceGranularity::previous_step:
      counts = previous_counts_E_.unsqueeze(0).clone();  // the step may end before the backward reads it again
      break;
    case BalanceGranularity::global:
    case BalanceGranularity::step:  // of one accumulation step: else the routing holds the counts
      counts = counts_UE.clone();
      data_.all_reduce(counts);
  }
  return counts;
}

at::Tensor Router::gates(const at::Tensor& scores_NK) const {
  if (config_.gate == Gate::constant) return at::full_like(scores_NK.detach(), config_.score_scale);
  return config_.score_scale == 1 ? scores_NK : scores_NK * config_.score_scale;
}

void Router::end_step(const StepStats& step) {
  if (bias_) bias_.end_step(step);
  if (previous_counts_E_.defined()) previous_counts_E_.copy_(at::where(step.finite, step.counts_E, previous_counts_E_));
}

RouterOut Router::forward(const Normed& x, StageContext& context) {
  auto& routing = context.routing;
  const int64_t sequences = context.batch.ids_BS.size(0);
  const auto layers = static_cast<double>(config_.num_moe_layers());
  const bool by_sequence = config_.load_balancing_granularity == BalanceGranularity::sequence;
  at::Tensor quantiles_E1;
  const RouteOptions options{
      .top_k = config_.choices(),
      .groups = by_sequence && sequences > 0 ? sequences : 1,
      .scoring = scoring_,
      .upcast = config_.router_dtype == RouterDtype::float32,
      .balance_weight = config_.load_balancing_weight / layers,
      .z_weight = config_.router_z_weight / layers,
      .save_policy = context.save_policy,
      .balance_counts = [&](const at::Tensor& counts_UE) { return balance_counts(counts_UE, context); },
      .choose =
          [&](const at::Tensor& logits_NE) {
            if (config_.experts_choose())
              return all_experts(logits_NE.size(0), config_.num_experts, logits_NE.device());
            if (!bias_) return at::Tensor();
            const auto keys_NE = bias_.keys(logits_NE);
            if (context.phase == Phase::train) quantiles_E1 = bias_.quantiles(logits_NE, keys_NE);
            return top_experts(keys_NE, config_.top_k);
          }};
  auto out = RouteFunction::apply(x.y_ND, x.saved, w_ED_, std::optional(routing.ids_NK), options);
  if (!routing.ids_NK.defined()) routing.ids_NK = out[2].detach();
  const auto stats = out[3].detach();
  return {gates(out[0]),
          out[1],
          {stats.narrow(0, 0, 2), stats.narrow(0, 2, 1), stats.narrow(0, 3, 1), stats.narrow(0, 4, config_.num_experts),
           quantiles_E1}};
}

StageCost Router::cost(const CostContext& context) const {
  constexpr int64_t kId = sizeof(int32_t), kCount = sizeof(int64_t), kStat = sizeof(double);
  const int64_t tokens = context.tokens(), D = config_.d_model, E = config_.num_experts, K = config_.choices();
  const int64_t master = context.master_bytes;
  const bool recomputes = context.save_policy == SavePolicy::selective;
  const auto N = static_cast<double>(tokens), d = static_cast<double>(D), e = static_cast<double>(E);
  auto gemm = linear_work("router product", 2 * N * d * e, N * (d + e), d * e, context);
  const double logits = N * e * static_cast<double>(context.value_bytes + master);
  const double pass = N * e * static_cast<double>(master);  // of one of ATen's operators over what it reads or writes
  const bool sigmoid = scoring_.needs_logits();
  auto routing =
      sigmoid ? memory_work("routing", logits + 5 * pass, logits + 14 * pass) : memory_work("routing", logits, logits);
  if (bias_) routing.forward.bytes += 6 * pass;  // scores again, their sum with the bias, and its order
  if (recomputes)
    for (auto* part : {&gemm, &routing}) part->backward.add(part->forward);

  const int64_t groups = config_.load_balancing_granularity == BalanceGranularity::sequence ? context.sequences : 1;
  StageCost out{.work = {gemm, routing}};
  const int64_t rows = tokens * D * context.value_bytes, log_sums_and_scores = tokens * (1 + K) * master;
  const bool upcast = config_.router_dtype == RouterDtype::float32 && context.value_bytes < master;
  // What is kept of the scores of all experts: themselves, or the logits.
  const int64_t kept = tokens * E * (sigmoid && !upcast ? context.value_bytes : master);
  out.routing = tokens * K * kId;
  out.saved = out.routing + E * (groups * master + kStat);  // gradients of the balancing loss; the statistics
  const int64_t routed = kept + log_sums_and_scores;
  // Log-sum-exp and scores of each token; counts.
  if (!recomputes) out.saved += routed + E * groups * kCount;
  // Gradients of scores, logits and x, this once more where it was computed in another dtype; what was not saved. Of a
  // sigmoid its scores as well, and before x two more tensors of their size, and the choice in 64 bits.
  const int64_t scores = tokens * E * master, again = recomputes ? rows + routed : 0;
  const int64_t grads = tokens * K * master + scores + (sigmoid ? scores : 0);
  const int64_t of_x = rows + (upcast ? tokens * D * master : 0);
  const int64_t of_sigmoid = sigmoid ? scores + tokens * K * int64_t{sizeof(int64_t)} : 0;
  out.peaks = {{"backward of the last router", out.saved, grads + again + std::max(of_x, of_sigmoid)}};
  return out;
}

}  // namespace olmoe
