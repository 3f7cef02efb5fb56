#pragma once
#include <memory>
#include <string>

#include "parallel/device_mesh.h"
#include "trainer/conversion/saved_model.h"
#include "trainer/job/resolved_run.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// How a saved model is run forward.
struct ForwardLayout {
  ComputeDtype compute_dtype = ComputeDtype::float32;
  DeviceKind device = DeviceKind::cpu;
  int64_t expert = 1;       ///< ranks that share the experts of a layer
  int64_t micro_batch = 4;  ///< sequences that a rank computes at once
};

/// The run of a model's forwards: its model, in this layout over `world_size` ranks. Throws ConfigError where the
/// layout does not fit.
ResolvedRun forward_run(const SavedModel& saved, const ForwardLayout& layout, int world_size);

/// A saved model whose weights are sharded over the ranks, for forwards.
class LoadedModel {
 public:
  /// `run`: forward_run() of it. `world` outlives this object. Throws CheckpointError on all ranks. Collective over
  /// world.
  LoadedModel(const SavedModel& saved, const ResolvedRun& run, Communicator& world);
  const ModelConfig& config() const { return run_.config.model; }
  StageRunner& runner() { return *runner_; }

 private:
  const ResolvedRun run_;  // the stages refer to its config
  DeviceMesh mesh_;
  std::unique_ptr<StageRunner> runner_;
};

}  // namespace olmoe
