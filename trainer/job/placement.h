#pragma once
#include "parallel/collectives/communicator.h"
#include "parallel/device_mesh.h"

namespace olmoe {

/// Logs how the mesh lies over hosts. Throws ConfigError where the launcher scattered over hosts what could be
/// together, and says how to place ranks. Collective over world.
void check_placement(Communicator& world, MeshShape mesh);

}  // namespace olmoe
