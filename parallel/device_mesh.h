#pragma once
#include <memory>
#include <string>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Sizes of the mesh axes: world = replicate x shard, and shard = expert_shard x expert.
struct MeshShape {
  int replicate = 1;
  int shard = 1;
  int expert = 1;
  int expert_shard() const { return shard / expert; }
};

/// The ranks as a grid, with a communicator for each axis. rank = replicate_index * shard + shard_index, and
/// shard_index = expert_shard_index * expert + expert_index: ranks of `expert` are neighbours.
class DeviceMesh {
 public:
  /// Throws ConfigError that names the fields of the config if the sizes are below 1, do not multiply to the ranks of
  /// `world`, or `expert` does not divide `shard`. Collective over `world`, which outlives the mesh.
  DeviceMesh(Communicator& world, MeshShape shape);
  Communicator& world() { return world_; }
  Communicator& replicate() { return *replicate_; }
  Communicator& shard() { return *shard_; }
  Communicator& expert() { return *expert_; }
  Communicator& expert_shard() { return *expert_shard_; }
  const MeshShape& shape() const { return shape_; }
  /// For logs: "world 8 = replicate 2 x shard 4 (expert 1 x expert_shard 4)".
  std::string describe() const;

 private:
  Communicator& world_;
  MeshShape shape_;
  std::unique_ptr<Communicator> replicate_, shard_, expert_, expert_shard_;
};

}  // namespace olmoe
