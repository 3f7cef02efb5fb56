#include "model/moe_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "core/integers.h"
#include "model/block/expert_capacity.h"
#include "parallel/collectives/communicator.h"

namespace olmoe {

MoeLayer::MoeLayer(const ModelConfig& config, const std::string& prefix, const LayerExperts& experts,
                   const ModelRanks& ranks, const MoeOptions& options)
    : config_(config),
      prefix_(prefix),
      router_(config, prefix + ".router", ranks.data),
      dispatcher_(ranks.experts, config.num_experts),
      experts_(experts.shared ? experts.shared
                              : std::make_shared<Experts>(config, prefix + ".experts", experts.hidden,
                                                          ranks.experts->group(), options.kernels)),
      made_experts_(!experts.shared),
      later_users_(experts.later_users),
      chunks_(dispatcher_.has_remote_experts() ? options.chunks : 1) {
  if (config.num_shared_experts > 0)
    shared_.emplace(config, prefix + ".shared", config.shared_hidden(),
                    config.shared_expert_gate ? DenseFfn::Gated::yes : DenseFfn::Gated::no);
}

StageState MoeLayer::state() {
  auto out = router_.state();
  if (is_latent()) {
    const int64_t D = config_.d_model, l = config_.latent_dim;
    const auto name = prefix_ + ".latent_";
    out.params.push_back(shared_param(name + "down.weight", {l, D}, ParamRole::matrix, latent_down_lD_));
    out.params.push_back(shared_param(name + "up.weight", {D, l}, ParamRole::output, latent_up_Dl_));
  }
  if (made_experts_) {
    auto experts = experts_->state();
    for (auto& param : experts.params) param.later_users = later_users_;
    out.add(std::move(experts));
  }
  if (shared_) out.add(shared_->state());
  return out;
}

int64_t MoeLayer::chosen_tokens(const Batch& batch) const {
  const int64_t sequences = batch.ids_BS.size(0), positions = batch.ids_BS.size(1);
  const bool by_sequence = config_.expert_choice_scope == ChoiceScope::sequence;
  const int64_t scopes = by_sequence ? sequences : 1, tokens = by_sequence ? positions : sequences * positions;
  return scopes * expert_capacity(1, tokens * config_.top_k, config_.num_experts);
}

at::Tensor MoeLayer::kept_choice(const at::Tensor& scores_NK, StageContext& context) const {
  auto& routing = context.routing;
  if (config_.experts_choose()) {
    const bool by_sequence = config_.expert_choice_scope == ChoiceScope::sequence;
    const int64_t scopes = by_sequence ? std::max<int64_t>(1, context.batch.ids_BS.size(0)) : 1;
    return chosen_by_experts(scores_NK.detach(), scopes, chosen_tokens(context.batch) / scopes);
  }
  if (!drops(context)) return routing.ids_NK;
  const int64_t capacity = expert_capacity(*config_.capacity_factor, routing.ids_NK.numel(), config_.num_experts);
  const bool by_score = config_.capacity_order == CapacityOrder::score;
  const auto kept_NK =
      drop_overflow(routing.ids_NK, by_score ? scores_NK.detach() : at::Tensor(), config_.num_experts, capacity);
  routing.dropped = (kept_NK < 0).sum().to(at::kDouble);
  return kept_NK;
}

void MoeLayer::make_plans(const at::Tensor& scores_NK, StageContext& context) const {
  auto& routing = context.routing;
  const auto ids_NK = kept_choice(scores_NK, context);
  const int64_t tokens = ids_NK.size(0);
  if (!dispatcher_.has_remote_experts()) {
    std::optional<int64_t> rows = ids_NK.numel();
    if (drops(context)) rows.reset();
    if (config_.experts_choose()) rows = config_.num_experts * chosen_tokens(context.batch);
    routing.plans.push_back(dispatcher_.plan_local(ids_NK, rows));
    return;
  }
  const int chunks = static_cast<int>(chunks_);
  std::vector<at::Tensor> ids;
  for (int c = 0; c < chunks; ++c) ids.push_back(ids_NK.slice(0, cut(tokens, chunks, c), cut(tokens, chunks, c + 1)));
  routing.plans = dispatcher_.plan(ids);
}

StageOut MoeLayer::forward(const Normed& x, const at::Tensor& residual_ND, StageContext& context) {
  auto& routing = context.routing;
  const auto routed = router_.forward(x, context);
  if (routing.plans.empty()) make_plans(routed.scores_NK, context);
  if (config_.experts_choose()) routed.stats.counts_E.fill_(static_cast<double>(chosen_tokens(context.batch)));
  if (routing.dropped.defined()) routed.stats.dropped_1.copy_(routing.dropped);
  if (context.probe) {
    context.probe->experts_NK.push_back(routing.ids_NK);
    context.probe->gates_NK.push_back(routed.scores_NK.detach());
    if (context.probe->output_peaks) context.probe->peaks_E.push_back(at::zeros({config_.num_experts}, at::kDouble));
  }
  const auto rows = is_latent() ? unnormed(linear(x, latent_down_lD_)) : x;
  if (dispatcher_.has_remote_experts())
    return {forward_chunks(x, rows, routed.scores_NK, residual_ND, context), routed.aux, routed.stats};
  const auto base_ND = with_shared(x, residual_ND);
  const auto& order = routing.plans.front().rows;  // nothing is dispatched
  note_peaks(rows.y_ND, order, context);
  if (is_latent())
    return {from_latent(experts_->forward(rows, routed.scores_NK, order), base_ND), routed.aux, routed.stats};
  // The kernel that sums the expert outputs adds the residual.
  return {experts_->forward(rows, routed.scores_NK, order, base_ND), routed.aux, routed.stats};
}

void MoeLayer::note_peaks(const at::Tensor& x_MD, const kernels::Permutation& rows, StageContext& context) const {
  if (!context.probe || !context.probe->output_peaks) return;
  auto& noted_E = context.probe->peaks_E.back();
  noted_E = at::maximum(noted_E, experts_->output_peaks(x_MD, rows));
}

/// base_ND + r_Nl up^T.
at::Tensor MoeLayer::from_latent(const at::Tensor& r_Nl, const at::Tensor& base_ND) const {
  return olmoe::linear(r_Nl, latent_up_Dl_).add_(base_ND);
}

at::Tensor MoeLayer::with_shared(const Normed& x, const at::Tensor& residual_ND) {
  return shared_ ? shared_->forward(x, residual_ND) : residual_ND;
}

at::Tensor MoeLayer::forward_chunks(const Normed& x, const Normed& rows, const at::Tensor& scores_NK,
                                    const at::Tensor& residual_ND, StageContext& context) {
  const auto& plans = context.routing.plans;
  const auto tokens_of = [&](const at::Tensor& all, size_t chunk) {
    if (plans.size() == 1) return all;
    const int chunks = static_cast<int>(plans.size()), c = static_cast<int>(chunk);
    return all.slice(0, cut(all.size(0), chunks, c), cut(all.size(0), chunks, c + 1));
  };
  std::vector<TokenDispatcher::PendingDispatch> dispatches;
  for (size_t c = 0; c < plans.size(); ++c)
    dispatches.push_back(dispatcher_.start_dispatch(tokens_of(rows.y_ND, c), tokens_of(scores_NK, c), plans[c]));
  const auto base_ND = with_shared(x, residual_ND);  // while the first chunks are in flight
  std::vector<PendingExchange> combines;
  for (size_t c = 0; c < plans.size(); ++c) {
    const auto received = dispatcher_.finish_dispatch(std::exchange(dispatches[c], {}));
    const auto received_rows = unnormed(received.x_MD);  // saved: no norm here to recompute them from
    note_peaks(received.x_MD, plans[c].rows, context);
    combines.push_back(
        dispatcher_.start_combine(experts_->forward(received_rows, received.scores_MK, plans[c].rows), plans[c]));
  }
  std::vector<at::Tensor> y;
  for (size_t c = 0; c < plans.size(); ++c) {
    const auto residual = is_latent() ? std::nullopt : std::optional(tokens_of(base_ND, c));
    y.push_back(dispatcher_.finish_combine(combines[c], plans[c], residual));
  }
  const auto sum = y.size() == 1 ? y.front() : at::cat(y);
  return is_latent() ? from_latent(sum, base_ND) : sum;
}

/// Both projections. Saved are what experts take, unless it is dispatched, and their sum.
StageCost MoeLayer::latent_cost(const CostContext& context) const {
  if (!is_latent()) return {};
  const int64_t tokens = context.tokens(), D = config_.d_model, l = config_.latent_dim;
  const auto N = static_cast<double>(tokens), elements = static_cast<double>(2 * D * l);
  const int64_t latent_rows = tokens * l * context.value_bytes, rows = tokens * D * context.value_bytes;
  StageCost out{.work = {linear_work("latent projections", 2 * N * elements, N * static_cast<double>(2 * (D + l)),
                                     elements, context)}};
  out.saved = latent_rows * (context.expert_ranks == 1 ? 2 : 1);
  // The gradient of the experts' input, that of x, and the one of the shared experts that it will be added to.
  out.peaks = {{"backward of the last latent projection", 0, latent_rows + (shared_ ? 2 : 1) * rows}};
  return out;
}

StageCost MoeLayer::cost(const CostContext& context) const {
  constexpr int64_t kIndex = sizeof(int32_t);
  const int64_t tokens = context.tokens(), K = config_.choices(), rows = tokens * config_.d_model * context.value_bytes;
  const int64_t expert_rows = tokens * config_.expert_dim() * context.value_bytes;
  const auto router = router_.cost(context), experts = experts_->cost(context), latent = latent_cost(context);
  StageCost out{.work = router.work,
                .saved = router.saved + experts.saved + latent.saved,
                .routing = router.routing + experts.routing};
  add_work(out.work, experts.work);
  add_work(out.work, latent.work);
  StageCost shared;
  if (shared_) shared = shared_->cost(context);
  add_work(out.work, shared.work);
  out.saved += shared.saved;
  int64_t in_flight = 0;  // of the dispatch, beside what the experts' backward allocates
  int64_t returned = 0;   // of the same when the experts are done: gradients of rows on their way back, both ends
  const auto token_bytes = static_cast<double>(expert_rows);
  const auto row_bytes = static_cast<double>(context.routed_rows(config_) * config_.expert_dim() * context.value_bytes);
  const double residual = is_latent() ? 0 : token_bytes;  // of latent experts it is added later
  if (context.expert_ranks == 1) {
    out.work.push_back(memory_work("combine", row_bytes + token_bytes + residual, row_bytes + token_bytes));
  } else {
    const double copies = token_bytes * expected_ranks(config_, context.expert_ranks);
    out.work.push_back(memory_work("combine", row_bytes + copies, row_bytes + copies));
    // A copy for each rank is made, and later their sum; the backward does the same with gradients.
    out.work.push_back(
        memory_work("dispatch", 3 * copies + token_bytes + residual, 3 * copies + token_bytes + residual));
    // Of copies their place and their token's; of received tokens places by choice; and the received rows.
    const int64_t received = context.expert_tokens(config_), chunks = context.expert_chunks;
    const int64_t received_rows = received * config_.expert_dim() * context.value_bytes;
    const int64_t places = (received + received * K) * kIndex;
    out.routing += places;
    out.saved += places + received_rows;
    // Gradients that came back to the experts; of the other chunks both ends are alive, rows of dy in flight or of dx.
    // The gradient of the residual is put together chunk by chunk: it is no longer dy itself.
    in_flight = received_rows * (2 * chunks - 1) / chunks + (chunks > 1 && !is_latent() ? rows : 0);
    returned = 2 * received_rows;
  }
  const int64_t score_grads = tokens * K * context.master_bytes;
  const int64_t after_experts = out.routing - router.routing;
  // The sum of latent experts was read, and its gradient is in its place.
  const int64_t sum = is_latent() ? expert_rows : 0;
  for (const auto& point : experts.peaks)
    out.peaks.push_back({point.name, out.saved - sum, sum + in_flight + score_grads + point.temporaries});
  // When the experts are done, the gradient of their input waits for that of the shared ones and of the router.
  for (const auto& point : shared.peaks)
    out.peaks.push_back({point.name, after_experts + router.saved + point.saved,
                         (returned > 0 ? returned : expert_rows) + score_grads + point.temporaries});
  for (const auto& point : latent.peaks)
    out.peaks.push_back({point.name, after_experts + router.saved, score_grads + point.temporaries});
  for (const auto& point : router.peaks)
    out.peaks.push_back({point.name, after_experts + point.saved, rows + point.temporaries});
  return out;
}

}  // namespace olmoe
