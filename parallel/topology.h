#pragma once
#include <string>
#include <vector>

#include "parallel/device_mesh.h"

namespace olmoe {

/// Which axes of a mesh stay within a host, where links are fast, and which cross hosts.
struct Topology {
  /// For logs: "8 ranks on 2 hosts, 4 each; within a host: expert, expert_shard; between hosts: replicate".
  std::string summary;
  /// Axes that cross hosts, but would not if ranks were numbered host by host. Innermost first.
  std::vector<std::string> scattered;
};

/// `host_of_rank` has the name of each rank's host. Throws Error unless there is one for each rank of `shape`.
Topology describe_topology(const std::vector<std::string>& host_of_rank, MeshShape shape);

}  // namespace olmoe
