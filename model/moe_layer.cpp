#include "model/moe_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <cmath>
#include <utility>

#include "core/integers.h"
#include "parallel/collectives/communicator.h"

namespace olmoe {
namespace {

/// ids_NK with -1 where the expert has `capacity` assignments already, those of earlier tokens first.
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
      chunks_(dispatcher_.travels() ? options.chunks : 1) {}

std::vector<Param> MoeLayer::params() {
  auto out = router_.params();
  for (auto& param : experts_.params()) out.push_back(std::move(param));
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
  if (!dispatcher_.travels()) {
    routing.plans.push_back(dispatcher_.plan_here(ids_NK, config_.capacity_factor.has_value()));
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
  if (dispatcher_.travels())
    return {forward_chunks(x.y_ND, routed.scores_NK, residual_ND, routing), routed.aux, routed.stats};
  // Nothing travels, and the residual is added in the pass that sums the experts.
  const auto& rows = routing.plans.front().rows;
  return {experts_.forward(x, routed.scores_NK, rows, residual_ND), routed.aux, routed.stats};
}

at::Tensor MoeLayer::forward_chunks(const at::Tensor& x_ND, const at::Tensor& scores_NK, const at::Tensor& residual_ND,
                                    const Routing& routing) {
  const auto& plans = routing.plans;
  const auto tokens_of = [&](const at::Tensor& all, size_t chunk) {
    if (plans.size() == 1) return all;
    const int chunks = static_cast<int>(plans.size()), c = static_cast<int>(chunk);
    return all.slice(0, cut(all.size(0), chunks, c), cut(all.size(0), chunks, c + 1));
  };
  std::vector<TokenDispatcher::Sent> sent;
  for (size_t c = 0; c < plans.size(); ++c)
    sent.push_back(dispatcher_.send(tokens_of(x_ND, c), tokens_of(scores_NK, c), plans[c]));
  std::vector<PendingExchange> sent_back;
  for (size_t c = 0; c < plans.size(); ++c) {
    const auto here = dispatcher_.receive(std::exchange(sent[c], {}));
    const Normed x{here.x_MD, {here.x_MD.detach(), {}}};  // what arrived cannot be made again, and is kept
    sent_back.push_back(dispatcher_.send_back(experts_.forward(x, here.scores_MK, plans[c].rows), plans[c]));
  }
  std::vector<at::Tensor> y;
  for (size_t c = 0; c < plans.size(); ++c)
    y.push_back(dispatcher_.receive_back(sent_back[c], plans[c], tokens_of(residual_ND, c)));
  return y.size() == 1 ? y.front() : at::cat(y);
}

}  // namespace olmoe
