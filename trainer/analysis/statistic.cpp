#include "trainer/analysis/statistic.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "core/error.h"

namespace olmoe {

void ensure_fits(const RoutedTokens& tokens, const AnalysisShape& shape) {
  const int64_t B = tokens.ids_BS.size(0), S = shape.sequence_length;
  for (const auto* ids : {&tokens.ids_BS, &tokens.next_BS, &tokens.predicted_BS}) {
    const bool fits = ids->scalar_type() == at::kLong && ids->is_contiguous() && ids->is_cpu();
    ENSURE(fits && ids->sizes() == at::IntArrayRef({B, S}), "routed tokens: ids are not int64 [{}, {}]", B, S);
  }
  const auto& experts = tokens.experts_LNK;
  const bool fits = experts.scalar_type() == at::kInt && experts.is_contiguous() && experts.is_cpu();
  ENSURE(fits && experts.sizes() == at::IntArrayRef({shape.layers, B * S, shape.top_k}),
         "routed tokens: experts are not int32 [{}, {}, {}]", shape.layers, B * S, shape.top_k);
  ENSURE(tokens.domain >= 0 && tokens.domain < shape.domains, "routed tokens: domain {} of {}", tokens.domain,
         shape.domains);
  if (experts.numel() == 0) return;
  const auto least = experts.min().item<int32_t>(), most = experts.max().item<int32_t>();
  ENSURE(least >= 0 && most < shape.experts, "routed tokens: experts {} to {} of {}", least, most, shape.experts);
  const auto least_id = tokens.ids_BS.min().item<int64_t>(), most_id = tokens.ids_BS.max().item<int64_t>();
  ENSURE(least_id >= 0 && most_id < shape.vocab_size, "routed tokens: ids {} to {} of a vocabulary of {}", least_id,
         most_id, shape.vocab_size);
}

at::Tensor ratio(const at::Tensor& counts, const at::Tensor& of) {
  const auto quotient = counts.to(at::kDouble) / of.to(at::kDouble);
  return at::where(of.ne(0).expand_as(quotient), quotient, at::zeros_like(quotient));
}

}  // namespace olmoe
