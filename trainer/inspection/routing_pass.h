// Shapes: as in trainer/analysis/statistic.h.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "trainer/analysis/routing_record.h"
#include "trainer/analysis/statistic.h"
#include "trainer/inspection/analysis_tokens.h"
#include "trainer/inspection/loaded_model.h"

namespace olmoe {

/// What one batch of tokens gave on this rank; B is 0 where it had none.
struct RoutedBatch {
  RoutedTokens tokens;
  at::Tensor gates_LNK;  ///< fp32 or float64, in host memory
};

/// One pass of a model over all tokens.
struct RoutingPass {
  const std::vector<DomainTokens>& domains;
  const std::vector<TokenBatch>& batches;
  const RoutingRecord* replay = nullptr;  ///< experts in place of the model's own choice
  bool predicts = false;                  ///< give predicted ids; else they are kIgnoredTarget
  at::Tensor* peaks_LE = nullptr;         ///< the largest outputs of experts that this rank computed (RoutingProbe)
  /// Is given each batch, on all ranks equally often.
  std::function<void(const RoutedBatch&)> take;

  /// Collective over world.
  void run(LoadedModel& model, Communicator& world) const;
};

}  // namespace olmoe
