#pragma once
#include "parallel/collectives/communicator.h"
#include "parallel/device_mesh.h"

namespace olmoe {

/// Logs how the mesh is placed on hosts. Throws ConfigError, with how to place ranks, where a group spans more hosts
/// than it needs. Collective over world.
void check_placement(Communicator& world, MeshShape mesh);

}  // namespace olmoe
