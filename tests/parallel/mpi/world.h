#pragma once
#include "parallel/collectives/communicator.h"

namespace olmoe {

/// All ranks of this program, alive while its tests run. Main makes it and checks its size.
Communicator& mpi_world();

}  // namespace olmoe
