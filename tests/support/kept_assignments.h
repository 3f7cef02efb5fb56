// Which experts a layer has, which of them a token has, and which tokens an expert takes, by sorting all of them.
// Shapes: N tokens, E experts.
#pragma once
#include <ATen/ATen.h>

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "model/config.h"

namespace olmoe::test {

/// Before the names of the weights of the experts of a layer: `layer`, or the first one that has any, if all share
/// them.
inline std::string experts_of(const ModelConfig& model, const std::string& layer) {
  int64_t first = 0;
  while (!model.is_moe_layer(first)) ++first;
  return (model.share_experts ? fmt::format("blocks.{}.moe.", first) : layer) + "experts.";
}

/// 1 where one of the first `capacity` tokens that chose an expert did, tokens by falling score, equal ones in order; 0
/// elsewhere. `chosen_NE`: 1 where a token chose an expert, else 0; the scores of others are not above those.
inline at::Tensor kept(const at::Tensor& scores_NE, const at::Tensor& chosen_NE, double capacity) {
  const auto order_NE = scores_NE.detach().argsort(/*stable=*/true, 0, /*descending=*/true);
  const auto has_room_NE = chosen_NE.gather(0, order_NE).cumsum(0).le(capacity).to(chosen_NE.dtype());
  return at::zeros_like(chosen_NE).scatter(0, order_NE, has_room_NE);
}

/// 1 where an expert takes a token: of each of `scopes` runs of n tokens those with its n K / E highest scores, rounded
/// up.
inline at::Tensor taken(const at::Tensor& scores_NE, int64_t scopes, int64_t top_k) {
  const auto scores_UnE = scores_NE.detach().unflatten(0, {scopes, -1});
  const int64_t experts = scores_NE.size(1), rows = (scores_UnE.size(1) * top_k + experts - 1) / experts;
  return at::zeros_like(scores_UnE).scatter(1, std::get<1>(scores_UnE.topk(rows, 1)), 1.0).flatten(0, 1);
}

/// 1 where a token chose an expert by its `keys_NE`, or with expert choice was chosen by its `scores_NE`; 0 elsewhere.
inline at::Tensor chosen(const ModelConfig& model, const at::Tensor& keys_NE, const at::Tensor& scores_NE,
                         int64_t sequences) {
  if (!model.experts_choose()) return at::zeros_like(scores_NE).scatter(1, std::get<1>(keys_NE.topk(model.top_k)), 1.0);
  return taken(scores_NE, model.expert_choice_scope == ChoiceScope::sequence ? sequences : 1, model.top_k);
}

/// kept() for the capacity of a model's experts and the order in which they keep tokens.
inline at::Tensor has_room(const ModelConfig& model, const at::Tensor& scores_NE, const at::Tensor& chosen_NE) {
  const double capacity = std::ceil(model.capacity_factor.value_or(1e6) * static_cast<double>(scores_NE.size(0)) *
                                    static_cast<double>(model.top_k) / static_cast<double>(model.num_experts));
  const bool by_score = model.capacity_order == CapacityOrder::score;
  return kept(by_score ? scores_NE : at::zeros_like(scores_NE), chosen_NE, capacity);
}

}  // namespace olmoe::test
