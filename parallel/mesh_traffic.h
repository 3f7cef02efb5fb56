#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "parallel/device_mesh.h"

namespace olmoe {

/// Collective calls of this rank and the logical bytes that it sent in them, by mesh axis and kind:
/// "calls/shard/all_gather", "sent_bytes/shard/all_gather". Counted over the life of the mesh. Axes of one rank send
/// nothing and are left out.
using MeshTraffic = std::map<std::string, int64_t>;
MeshTraffic traffic_of(DeviceMesh& mesh);

/// The differences between two counts of one mesh, without zeros.
MeshTraffic traffic_between(const MeshTraffic& before, const MeshTraffic& after);

}  // namespace olmoe
