#pragma once
#include <cstdint>
#include <string_view>

#include "model/cost.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// What stages are asked the cost of: `sequences` of one rank, on the config's device and kernels. A GPU has so many
/// multiprocessors.
CostContext cost_context(const Config& config, MeshShape mesh, int64_t sequences, int multiprocessors);

/// Activations of a rank in bytes, at the point of a micro-batch where they take most.
struct PeakActivations {
  std::string_view name;
  int64_t saved;        ///< by stages that wait for their backward
  int64_t temporaries;  ///< of the stage at work
  int64_t total() const { return saved + temporaries; }
};
/// Of a whole micro-batch, from what its stages state; docs/memory.md says what that is.
PeakActivations peak_activations(const Config& config, const ModelOnMesh& model, int multiprocessors);

}  // namespace olmoe
