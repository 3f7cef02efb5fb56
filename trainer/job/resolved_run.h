#pragma once
#include <c10/core/Device.h>

#include "data/batch_plan.h"
#include "parallel/device_mesh.h"
#include "trainer/config/config.h"

namespace olmoe {

/// A config and what follows from it for this rank, computed once at the start.
struct ResolvedRun {
  Config config;
  MeshShape mesh;
  c10::Device device;                               ///< of this rank
  int threads;                                      ///< of this rank, for tensor operations
  BatchPlan batches;                                ///< of a step after train.batch_size_warmup
  UnknownKeys unknown_keys = UnknownKeys::refused;  ///< in the configs of checkpoints
};

/// Touches no device. Throws ConfigError where the layout does not fit `world_size` ranks or there is no GPU.
ResolvedRun resolve_run(const Config& config, int world_size);

/// Sets the threads of this process, in which `other_threads` more will run, and makes its device current. Throws
/// ConfigError for threads that the system refuses and as prepare_device() does.
void prepare_process_for(const ResolvedRun& run, int other_threads);

}  // namespace olmoe
