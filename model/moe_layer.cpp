#include "model/moe_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <cmath>
#include <utility>

#include "core/integers.h"
#include "parallel/collectives/communicator.h"

namespace olmoe {
namespace {

/// ids_NK with -1 for assignments beyond the first `capacity` of their expert, in the order of tokens.
at::Tensor drop_overflow(const at::Tensor& ids_NK, int64_t num_experts, int64_t capacity) {
  const auto sorted = kernels::sort_by_expert(ids_NK, num_experts);
  const auto begins_E = at::cat({at::zeros({1}, sorted.offsets_E.options()), sorted.offsets_E.slice(0, 0, -1)});
  const auto place_NK = sorted.row_NK - begins_E.index_select(0, ids_NK.flatten()).view_as(ids_NK);
  return ids_NK.masked_fill(place_NK >= capacity, -1);
}

}  // namespace

int64_t expert_capacity(double factor, int64_t assignments, int64_t num_experts) {
  const double exact = factor * static_cast<double>(assignments) / static_cast<double>(num_experts);
  constexpr double kRounding = 1e-12;  // 1.1 x 50 is a little more than 55 in binary
  return std::llround(std::ceil(exact * (1 - kRounding)));
}

MoeLayer::MoeLayer(const ModelConfig& config, const std::string& prefix, const ModelRanks& ranks,
                   const MoeOptions& options)
    : config_(config),
      router_(config, prefix + ".router", ranks.data),
      dispatcher_(ranks.experts, config.num_experts),
      experts_(config, prefix + ".experts", ranks.experts->group(), options.kernels),
      chunks_(dispatcher_.has_remote_experts() ? options.chunks : 1) {
  if (config.num_shared_experts > 0)
    shared_.emplace(config, prefix + ".shared", config.shared_hidden(),
                    config.shared_expert_gate ? DenseFfn::Gated::yes : DenseFfn::Gated::no);
}

StageState MoeLayer::state() {
  auto out = router_.state();
  out.add(experts_.state());
  if (shared_) out.add(shared_->state());
  return out;
}

void MoeLayer::make_plans(Routing& routing) const {
  auto ids_NK = routing.ids_NK;
  const int64_t tokens = ids_NK.size(0);
  if (config_.capacity_factor) {
    const int64_t capacity = expert_capacity(*config_.capacity_factor, ids_NK.numel(), config_.num_experts);
    ids_NK = drop_overflow(ids_NK, config_.num_experts, capacity);
    routing.dropped = (ids_NK < 0).sum().to(at::kDouble);
  }
  if (!dispatcher_.has_remote_experts()) {
    routing.plans.push_back(dispatcher_.plan_local(ids_NK, config_.capacity_factor.has_value()));
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
  if (routing.plans.empty()) make_plans(routing);
  if (routing.dropped.defined()) routed.stats.dropped_1.copy_(routing.dropped);
  if (dispatcher_.has_remote_experts())
    return {forward_chunks(x, routed.scores_NK, residual_ND, routing), routed.aux, routed.stats};
  // Nothing is dispatched; the kernel that sums the expert outputs adds the residual.
  const auto& rows = routing.plans.front().rows;
  return {experts_.forward(x, routed.scores_NK, rows, with_shared(x, residual_ND)), routed.aux, routed.stats};
}

at::Tensor MoeLayer::with_shared(const Normed& x, const at::Tensor& residual_ND) {
  return shared_ ? shared_->forward(x, residual_ND) : residual_ND;
}

at::Tensor MoeLayer::forward_chunks(const Normed& x, const at::Tensor& scores_NK, const at::Tensor& residual_ND,
                                    const Routing& routing) {
  const auto& plans = routing.plans;
  const auto tokens_of = [&](const at::Tensor& all, size_t chunk) {
    if (plans.size() == 1) return all;
    const int chunks = static_cast<int>(plans.size()), c = static_cast<int>(chunk);
    return all.slice(0, cut(all.size(0), chunks, c), cut(all.size(0), chunks, c + 1));
  };
  std::vector<TokenDispatcher::PendingDispatch> dispatches;
  for (size_t c = 0; c < plans.size(); ++c)
    dispatches.push_back(dispatcher_.start_dispatch(tokens_of(x.y_ND, c), tokens_of(scores_NK, c), plans[c]));
  const auto base_ND = with_shared(x, residual_ND);  // while the first chunks are in flight
  std::vector<PendingExchange> combines;
  for (size_t c = 0; c < plans.size(); ++c) {
    const auto received = dispatcher_.finish_dispatch(std::exchange(dispatches[c], {}));
    const Normed rows{received.x_MD, {received.x_MD.detach(), {}}};  // saved: no norm here to recompute it from
    combines.push_back(dispatcher_.start_combine(experts_.forward(rows, received.scores_MK, plans[c].rows), plans[c]));
  }
  std::vector<at::Tensor> y;
  for (size_t c = 0; c < plans.size(); ++c)
    y.push_back(dispatcher_.finish_combine(combines[c], plans[c], tokens_of(base_ND, c)));
  return y.size() == 1 ? y.front() : at::cat(y);
}

StageCost MoeLayer::cost(const CostContext& context) const {
  constexpr int64_t kIndex = sizeof(int32_t);
  const int64_t tokens = context.tokens(), K = config_.top_k, rows = tokens * config_.d_model * context.value_bytes;
  const auto router = router_.cost(context), experts = experts_.cost(context);
  StageCost out{
      .work = router.work, .saved = router.saved + experts.saved, .routing = router.routing + experts.routing};
  add_work(out.work, experts.work);
  StageCost shared;
  if (shared_) shared = shared_->cost(context);
  add_work(out.work, shared.work);
  out.saved += shared.saved;
  int64_t in_flight = 0;  // of the dispatch, beside what the experts' backward allocates
  int64_t returned = 0;   // of the same when the experts are done: gradients of rows on their way back, both ends
  const auto token_bytes = static_cast<double>(rows), row_bytes = token_bytes * static_cast<double>(K);
  if (context.expert_ranks == 1) {
    out.work.push_back(memory_work("combine", row_bytes + 2 * token_bytes, row_bytes + token_bytes));
  } else {
    const double copies = token_bytes * expected_ranks(config_.num_experts, K, context.expert_ranks);
    out.work.push_back(memory_work("combine", row_bytes + copies, row_bytes + copies));
    // A copy for each rank is made, and later their sum; the backward does the same with gradients.
    out.work.push_back(memory_work("dispatch", 3 * copies + 2 * token_bytes, 3 * copies + 2 * token_bytes));
    // Of copies their place and their token's; of received tokens places by choice; and the received rows.
    const int64_t received = context.expert_tokens(config_), chunks = context.expert_chunks;
    const int64_t received_rows = received * config_.d_model * context.value_bytes;
    const int64_t places = (received + received * K) * kIndex;
    out.routing += places;
    out.saved += places + received_rows;
    // Gradients that came back to the experts; of the other chunks both ends are alive, rows of dy in flight or of dx.
    // The gradient of the residual is put together chunk by chunk: it is no longer dy itself.
    in_flight = received_rows * (2 * chunks - 1) / chunks + (chunks > 1 ? rows : 0);
    returned = 2 * received_rows;
  }
  const int64_t score_grads = tokens * K * context.master_bytes;
  for (const auto& point : experts.peaks)
    out.peaks.push_back({point.name, out.saved, in_flight + score_grads + point.temporaries});
  // When the experts are done, the gradient of their input waits for that of the shared ones and of the router.
  for (const auto& point : shared.peaks)
    out.peaks.push_back({point.name, out.routing - router.routing + router.saved + point.saved,
                         (returned > 0 ? returned : rows) + score_grads + point.temporaries});
  for (const auto& point : router.peaks)
    out.peaks.push_back({point.name, out.routing - router.routing + point.saved, rows + point.temporaries});
  return out;
}

}  // namespace olmoe
