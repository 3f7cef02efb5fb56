#include "model/cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "model/block/expert_capacity.h"

namespace olmoe {
namespace {

bool same_shape(const GroupedGemm& a, const GroupedGemm& b) {
  return a.name == b.name && a.rows == b.rows && a.experts == b.experts && a.m == b.m && a.n == b.n && a.k == b.k &&
         a.bytes == b.bytes;
}

}  // namespace

int64_t CostContext::expert_tokens(const ModelConfig& model) const {
  return std::llround(expected_ranks(model, expert_ranks) * static_cast<double>(tokens()));
}

int64_t CostContext::routed_rows(const ModelConfig& model) const {
  if (!model.experts_choose()) return tokens() * model.top_k;
  const bool by_sequence = model.expert_choice_scope == ChoiceScope::sequence;
  const int64_t scopes = by_sequence ? sequences : 1, scope = by_sequence ? positions : tokens();
  return scopes * model.num_experts * expert_capacity(1, scope * model.top_k, model.num_experts);
}

void Cost::add(const Cost& other) {
  flops += other.flops;
  bytes += other.bytes;
  for (const auto& gemm : other.gemms) {
    const auto same = std::ranges::find_if(gemms, [&](const auto& mine) { return same_shape(mine, gemm); });
    if (same == gemms.end())
      gemms.push_back(gemm);
    else
      same->launches += gemm.launches;
  }
  split.heads = std::max(split.heads, other.split.heads);
  split.copy_bytes += other.split.copy_bytes;
}

void Cost::scale(double times) {
  flops *= times;
  bytes *= times;
  for (auto& gemm : gemms) gemm.launches *= times;
  split.copy_bytes *= times;
}

Cost cost_of(std::vector<GroupedGemm> gemms) {
  Cost out;
  for (const auto& gemm : gemms) {
    out.flops += gemm.launches * gemm.flops();
    out.bytes += gemm.launches * gemm.bytes;
  }
  out.gemms = std::move(gemms);
  return out;
}

Work linear_work(std::string_view name, double flops, double row_elements, double elements,
                 const CostContext& context) {
  const auto value = static_cast<double>(context.value_bytes), grad = 2 * static_cast<double>(context.master_bytes);
  const double rows = value * row_elements, weight = value * elements;
  return {name, Bound::dense_gemm, {flops, rows + weight}, {2 * flops, 2 * rows + weight + grad * elements}};
}

Work memory_work(std::string_view name, double forward_bytes, double backward_bytes) {
  return {name, Bound::memory, {0, forward_bytes}, {0, backward_bytes}};
}

double expected_copies(int64_t num_experts, int64_t top_k, int64_t expert_ranks) {
  const int64_t others = num_experts - num_experts / expert_ranks;  // experts that are not on one given rank
  double none_there = 1;                                            // C(others, K) / C(E, K)
  for (int64_t k = 0; k < top_k; ++k)
    none_there *= static_cast<double>(std::max<int64_t>(others - k, 0)) / static_cast<double>(num_experts - k);
  return static_cast<double>(expert_ranks - 1) * (1 - none_there);
}

double expected_ranks(int64_t num_experts, int64_t top_k, int64_t expert_ranks) {
  if (expert_ranks == 1) return 1;
  const auto ranks = static_cast<double>(expert_ranks);
  return expected_copies(num_experts, top_k, expert_ranks) * ranks / (ranks - 1);
}

double expected_copies(const ModelConfig& model, int64_t expert_ranks) {
  if (!model.experts_choose()) return expected_copies(model.num_experts, model.top_k, expert_ranks);
  const double not_chosen = 1 - static_cast<double>(model.top_k) / static_cast<double>(model.num_experts);
  const auto experts = static_cast<double>(model.num_experts / expert_ranks);  // of a rank
  return static_cast<double>(expert_ranks - 1) * (1 - std::pow(not_chosen, experts));
}

double expected_ranks(const ModelConfig& model, int64_t expert_ranks) {
  if (expert_ranks == 1) return 1;
  const auto ranks = static_cast<double>(expert_ranks);
  return expected_copies(model, expert_ranks) * ranks / (ranks - 1);
}

void add_work(std::vector<Work>& work, const std::vector<Work>& more) {
  for (const auto& part : more) {
    const auto same = std::ranges::find(work, part.name, &Work::name);
    if (same == work.end()) {
      work.push_back(part);
      continue;
    }
    ENSURE(same->bound == part.bound, "work: {} has two bounds", part.name);
    same->forward.add(part.forward);
    same->backward.add(part.backward);
    same->update.add(part.update);
  }
}

}  // namespace olmoe
