#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "parallel/device_mesh.h"

namespace olmoe {

/// Collective calls of this rank and the bytes that they sent to others, by mesh axis and kind:
/// "calls/shard/all_gather", "sent_bytes/shard/all_gather". Exact, and counted over the life of the mesh. Axes of one
/// rank send nothing and are left out.
using MeshTraffic = std::map<std::string, int64_t>;
MeshTraffic traffic_of(DeviceMesh& mesh);

/// What was added between two counts, where that is not zero.
MeshTraffic traffic_between(const MeshTraffic& before, const MeshTraffic& after);

}  // namespace olmoe
