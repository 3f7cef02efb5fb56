#pragma once
#include "parallel/device_mesh.h"
#include "trainer/config/config.h"

namespace olmoe {

/// The most ranks of a layout.
inline constexpr int kMostRanks = 1 << 20;

/// The ranks that the config asks for: parallel.replicate x parallel.shard, with a shard of 0 taken as 1. Throws
/// ConfigError naming both fields for more than kMostRanks.
int configured_ranks(const Config& config);

/// The mesh of `world_size` ranks. parallel.shard = 0 is world_size / parallel.replicate. Throws ConfigError naming the
/// two fields in conflict and values that would fit.
MeshShape mesh_shape(const Config& config, int world_size);

}  // namespace olmoe
