#include "trainer/analysis/saturation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "core/error.h"

namespace olmoe {

Saturation::Saturation(const AnalysisShape& shape, int64_t checkpoints)
    : top_k_(shape.top_k),
      same_CL2_(at::zeros({checkpoints, shape.layers, 2}, at::kLong)),
      tokens_C_(at::zeros({checkpoints}, at::kLong)) {
  ENSURE(shape.experts <= std::numeric_limits<int16_t>::max(), "saturation of {} experts a layer", shape.experts);
}

void Saturation::begin(int64_t checkpoint) {
  ENSURE(checkpoint >= 0 && checkpoint < tokens_C_.size(0), "saturation of checkpoint {} of {}", checkpoint,
         tokens_C_.size(0));
  checkpoint_ = checkpoint;
}

void Saturation::add(const RoutedTokens& tokens) {
  const int64_t L = same_CL2_.size(1), N = tokens.num_tokens(), K = top_k_;
  if (N == 0) return;
  if (checkpoint_ == tokens_C_.size(0) - 1) kept_[tokens.first] = tokens.experts_LNK.to(at::kShort);
  const auto kept = kept_.find(tokens.first);
  ENSURE(kept != kept_.end() && kept->second.sizes() == tokens.experts_LNK.sizes(),
         "saturation: the last checkpoint had no such tokens from token {} on", tokens.first);
  const auto* now = tokens.experts_LNK.const_data_ptr<int32_t>();
  const auto* last = kept->second.const_data_ptr<int16_t>();
  auto* const same = same_CL2_.data_ptr<int64_t>() + checkpoint_ * L * 2;
  for (int64_t l = 0; l < L; ++l)
    for (int64_t n = 0; n < N; ++n, now += K, last += K) {
      same[l * 2 + 1] += now[0] == last[0] ? 1 : 0;
      for (int64_t k = 0; k < K; ++k)
        for (int64_t j = 0; j < K; ++j) same[l * 2] += now[k] == last[j] ? 1 : 0;
    }
  tokens_C_.data_ptr<int64_t>()[checkpoint_] += N;
}

std::vector<NamedArray> Saturation::arrays() const {
  const auto tokens_C1 = tokens_C_.unsqueeze(1);
  return {{"saturation.same", same_CL2_},
          {"saturation.tokens", tokens_C_},
          {"saturation.top_k", ratio(same_CL2_.select(2, 0), tokens_C1 * top_k_)},
          {"saturation.top_1", ratio(same_CL2_.select(2, 1), tokens_C1)}};
}

EarlyRouting::EarlyRouting(const AnalysisShape& shape, int64_t checkpoints) : shape_(shape) {
  for (int64_t c = 0; c < checkpoints; ++c) counts_.emplace_back(shape);
}

void EarlyRouting::add(const RoutedTokens& tokens) {
  const auto* const ids = tokens.ids_BS.const_data_ptr<int64_t>();
  auto& counts = counts_.at(static_cast<size_t>(checkpoint_));
  for (int64_t n = 0; n < tokens.num_tokens(); ++n) counts.add(tokens, n, ids[n], shape_.top_k);
}

std::vector<at::Tensor> EarlyRouting::counts() {
  std::vector<at::Tensor> out;
  for (const auto& counts : counts_) out.push_back(counts.counts());
  return out;
}

std::vector<NamedArray> EarlyRouting::arrays() const {
  const auto ids_U = counts_.back().ids_with(shape_.min_count * shape_.top_k);
  std::vector<at::Tensor> variation_TU;
  for (const auto& counts : counts_)
    variation_TU.push_back(share_variation(counts.of(ids_U), counts_.back().of(ids_U)));
  const auto all_CTU = at::stack(variation_TU);
  const auto mean_CT = ids_U.numel() > 0 ? all_CTU.mean(2) : all_CTU.sum(2);
  return {{"early.ids", ids_U}, {"early.id_variation", all_CTU}, {"early.variation", mean_CT}};
}

}  // namespace olmoe
