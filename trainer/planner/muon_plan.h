#pragma once
#include <cstdint>
#include <vector>

#include "model/transformer.h"
#include "parallel/device_mesh.h"
#include "trainer/config/config.h"

namespace olmoe {

/// What Muon does in one step of a model on a mesh, in elements, of the ranks that have most of each; zeros without
/// Muon. Homes are those that trainer/optimizer/muon.cpp plans.
struct MuonPlan {
  /// The matrices of units that one group of ranks shares.
  struct Group {
    int64_t held = 0;     ///< of matrices, in a rank's shards
    int64_t homed = 0;    ///< of matrices whose home a rank is
    int64_t sent = 0;     ///< there and back
    int64_t buffers = 0;  ///< what is exchanged and orthogonalised at once, in the compute dtype
    int64_t largest = 0;  ///< of a unit's shard, whose gradients and updates are in the master dtype meanwhile
  };
  Group dense, experts;
  int64_t matrices = 0, numel = 0;  ///< of the model
  int64_t sent = 0;                 ///< of both groups, by one rank
  double flops = 0;                 ///< of Newton-Schulz, all its steps
  double passed = 0;                ///< values that its products read and write

  /// Of the group that takes most at its peak, with values of so many bytes.
  int64_t temporaries(int64_t compute_bytes, int64_t master_bytes) const;
};
MuonPlan plan_muon(const OptimizerConfig& config, const ModelOutline& model, MeshShape mesh);

}  // namespace olmoe
