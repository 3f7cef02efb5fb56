#include "model/block/expert_capacity.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "kernels/permute.h"

namespace olmoe {
namespace {

/// The place of each assignment among those of its expert, in the order of tokens: int32 [N, K].
at::Tensor place_in_expert(const at::Tensor& ids_NK, int64_t num_experts) {
  const auto sorted = kernels::sort_by_expert(ids_NK, num_experts);
  const auto begins_E = at::cat({at::zeros({1}, sorted.offsets_E.options()), sorted.offsets_E.slice(0, 0, -1)});
  return sorted.row_NK - begins_E.index_select(0, ids_NK.flatten()).view_as(ids_NK);
}

}  // namespace

int64_t expert_capacity(double factor, int64_t assignments, int64_t num_experts) {
  const double exact = factor * static_cast<double>(assignments) / static_cast<double>(num_experts);
  constexpr double kRounding = 1e-12;  // 1.1 x 50 is a little more than 55 in binary
  return std::llround(std::ceil(exact * (1 - kRounding)));
}

at::Tensor drop_overflow(const at::Tensor& ids_NK, const at::Tensor& scores_NK, int64_t num_experts, int64_t capacity) {
  if (!scores_NK.defined()) return ids_NK.masked_fill(place_in_expert(ids_NK, num_experts) >= capacity, -1);
  const auto order_A = std::get<1>(at::sort(scores_NK.flatten(), /*stable=*/true, /*dim=*/0, /*descending=*/true));
  const auto place_A =
      place_in_expert(ids_NK.flatten().index_select(0, order_A).view_as(ids_NK), num_experts).flatten();
  const auto place_NK = at::empty_like(place_A).scatter_(0, order_A, place_A).view_as(ids_NK);
  return ids_NK.masked_fill(place_NK >= capacity, -1);
}

at::Tensor all_experts(int64_t tokens, int64_t num_experts, at::Device device) {
  const auto ids_E = at::arange(num_experts, at::TensorOptions().dtype(at::kInt).device(device));
  return ids_E.expand({tokens, num_experts}).contiguous();
}

at::Tensor chosen_by_experts(const at::Tensor& scores_NE, int64_t scopes, int64_t capacity) {
  const int64_t tokens = scores_NE.size(0), experts = scores_NE.size(1);
  const auto scores_UnE = scores_NE.view({scopes, tokens / scopes, experts});
  const auto order_UnE = std::get<1>(at::sort(scores_UnE, /*stable=*/true, /*dim=*/1, /*descending=*/true));
  const auto chosen_UnE = at::zeros(scores_UnE.sizes(), scores_NE.options().dtype(at::kBool))
                              .scatter_(1, order_UnE.narrow(1, 0, capacity), true);
  const auto not_chosen_NE = chosen_UnE.view({tokens, experts}).logical_not();
  return all_experts(tokens, experts, scores_NE.device()).masked_fill_(not_chosen_NE, -1);
}

}  // namespace olmoe
