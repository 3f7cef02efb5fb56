#pragma once
#include "parallel/device_mesh.h"
#include "trainer/config/config.h"

namespace olmoe {

/// The most ranks that a layout is looked at for.
inline constexpr int kMostRanks = 1 << 20;

/// The ranks that the config speaks of: parallel.replicate x parallel.shard, where a shard of 0 counts as 1. Throws
/// ConfigError naming both fields beyond kMostRanks.
int configured_ranks(const Config& config);

/// The mesh of `world_size` ranks. parallel.shard = 0 takes all that parallel.replicate leaves. Throws ConfigError
/// naming the two fields in conflict and what would fit.
MeshShape mesh_shape(const Config& config, int world_size);

}  // namespace olmoe
