// Shapes: B sequences of S tokens.
#pragma once
#include "support/model_fixtures.h"

namespace olmoe::test {

/// Which keys [B, S, S] each query does not see: later ones, those of other documents, and with a `window` above 0
/// those that are `window` or more positions behind.
inline at::Tensor hidden_keys(const Batch& batch, int64_t window) {
  const int64_t B = batch.ids_BS.size(0), S = batch.ids_BS.size(1);
  auto document_BS = at::zeros({B, S}, at::kLong);
  if (batch.bounds.defined()) {
    auto starts_N = at::zeros({B * S + 1}, at::kLong);
    starts_N.index_fill_(0, batch.bounds_cpu.to(at::kLong), 1);
    document_BS = starts_N.narrow(0, 0, B * S).cumsum(0).view({B, S});
  }
  const auto position = at::arange(S), behind_SS = position.unsqueeze(1) - position.unsqueeze(0);
  auto hidden_SS = behind_SS < 0;
  if (window > 0) hidden_SS = hidden_SS.logical_or(behind_SS >= window);
  return hidden_SS.logical_or(document_BS.unsqueeze(2) != document_BS.unsqueeze(1));
}

}  // namespace olmoe::test
