// Shapes: N tokens, K experts of each, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace olmoe {

/// Capacity of an expert: `factor` * assignments / num_experts, rounded up.
int64_t expert_capacity(double factor, int64_t assignments, int64_t num_experts);
/// ids_NK (int32) with -1 for assignments beyond the `capacity` of their expert. It keeps those with the highest
/// scores_NK, equal ones in the order of tokens; without scores the first tokens. Makes no host sync.
at::Tensor drop_overflow(const at::Tensor& ids_NK, const at::Tensor& scores_NK, int64_t num_experts, int64_t capacity);
/// Expert choice: ids [N, E] (int32), e at (n, e) where token n is one of the `capacity` with the highest scores_NE of
/// expert e in its scope, else -1; equal scores in the order of tokens. `scopes`: runs of as many tokens, whose number
/// divides N. Makes no host sync. Source: arXiv 2202.09368.
at::Tensor chosen_by_experts(const at::Tensor& scores_NE, int64_t scopes, int64_t capacity);
/// Every expert of each token: ids [N, E] (int32), e at (n, e).
at::Tensor all_experts(int64_t tokens, int64_t num_experts, at::Device device);

}  // namespace olmoe
