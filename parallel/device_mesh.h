#pragma once
#include <memory>
#include <string>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Sizes of the mesh axes. world = replicate x shard, and shard = expert x expert_shard.
struct MeshShape {
  int replicate = 1;
  int shard = 1;
  int expert = 1;
  int expert_shard() const { return shard / expert; }
};

/// The ranks as a grid, innermost axis last: rank = (replicate * shard_size) + shard, and
/// shard = expert_shard_index * expert + expert. One communicator for each axis.
class DeviceMesh {
 public:
  /// Collective over `world`. Throws ConfigError naming the two fields in conflict when they do not
  /// multiply.
  DeviceMesh(Communicator& world, MeshShape shape);
  Communicator& world() { return world_; }
  Communicator& replicate() { return *replicate_; }
  Communicator& shard() { return *shard_; }
  Communicator& expert() { return *expert_; }
  Communicator& expert_shard() { return *expert_shard_; }
  const MeshShape& shape() const { return shape_; }
  /// One line for people: "world 8 = replicate 2 x shard 4 (expert 1 x expert_shard 4)".
  std::string describe() const;

 private:
  Communicator& world_;
  MeshShape shape_;
  std::unique_ptr<Communicator> replicate_, shard_, expert_, expert_shard_;
};

}  // namespace olmoe
