#pragma once
#include <string>
#include <vector>

#include "parallel/device_mesh.h"

namespace olmoe {

/// How a mesh lies over hosts, which is what its inner axes pay for: links within a host are the fast ones.
struct Topology {
  /// One line for people: "8 ranks on 2 hosts, 4 each; within a host: expert, expert_shard; between hosts: replicate".
  std::string summary;
  /// Axes that cross hosts although the same ranks on the same hosts, host after host, would keep each of their groups
  /// within one. Innermost first.
  std::vector<std::string> scattered;
};

/// `host_of_rank` names the host of each rank of the world.
Topology describe_topology(const std::vector<std::string>& host_of_rank, MeshShape shape);

}  // namespace olmoe
