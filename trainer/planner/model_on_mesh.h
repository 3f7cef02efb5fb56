#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "model/flops.h"
#include "model/transformer.h"
#include "trainer/config/config.h"

namespace olmoe {

/// A flat unit of a stage as ShardedUnit lays it out, in elements.
struct UnitSize {
  int64_t numel = 0;    ///< padding included; 0 where the stage has no such unit
  int64_t largest = 0;  ///< of its parameters
  int ranks = 1;        ///< that share it
  int64_t slice() const { return numel / ranks; }
};

struct StageUnits {
  UnitSize dense;    ///< shared by all of shard
  UnitSize experts;  ///< those of a rank's own experts, shared by expert_shard
};

/// What all plans of a model on a mesh are made from. To list the parameters of a model takes longer than any plan:
/// made once, it serves every ZeRO stage and mode of recompute.
struct ModelOnMesh {
  /// Of `config` the model, the sequence length and what optimizer.groups freeze alone.
  ModelOnMesh(const Config& config, MeshShape on);
  MeshShape mesh;
  std::shared_ptr<const ModelOutline> outline;
  std::vector<StageUnits> stages;  ///< first stage first
  int64_t moments;                 ///< elements of each moment, on the rank that trains most
  FlopsPerToken flops;
};

}  // namespace olmoe
