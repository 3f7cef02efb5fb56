// Which tokens an expert takes, by sorting all of them. Shapes: N tokens, E experts.
#pragma once
#include <ATen/ATen.h>

namespace olmoe::test {

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

}  // namespace olmoe::test
