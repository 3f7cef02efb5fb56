#pragma once
#include "parallel/device_mesh.h"
#include "trainer/config.h"

namespace olmoe {

/// The mesh of `world_size` ranks. parallel.shard = 0 takes all that parallel.replicate leaves. Throws ConfigError
/// naming the two fields in conflict and what would fit.
MeshShape mesh_shape(const Config& config, int world_size);

}  // namespace olmoe
