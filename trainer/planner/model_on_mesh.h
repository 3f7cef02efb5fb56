#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/flops.h"
#include "model/transformer.h"
#include "trainer/config/config.h"
#include "trainer/planner/muon_plan.h"

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
  /// That later stages use too: in buffers of their own in every ZeRO stage, of each kind.
  UnitSize tied, tied_experts;
  std::array<const UnitSize*, 4> all() const { return {&dense, &experts, &tied, &tied_experts}; }
};

/// Elements of a rank's shards by what is kept of them beside the weight.
struct TrainedElements {
  int64_t adamw = 0;  ///< two moments
  int64_t muon = 0;   ///< the momentum
  int64_t moments() const { return 2 * adamw + muon; }
};

/// What all plans of a model on a mesh are made from. To list the parameters of a model takes longer than any plan:
/// made once, it serves every ZeRO stage and mode of recompute.
struct ModelOnMesh {
  /// Of `config` the model, the sequence length and what the optimizer does with which parameter alone.
  ModelOnMesh(const Config& config, MeshShape on);
  MeshShape mesh;
  std::shared_ptr<const ModelOutline> outline;
  std::vector<StageUnits> stages;  ///< first stage first
  TrainedElements trained;         ///< on the rank that has most moments
  MuonPlan muon;
  FlopsPerToken flops;
};

}  // namespace olmoe
