#include "trainer/job/placement.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "core/log.h"
#include "core/process/process_identity.h"
#include "parallel/agreement.h"
#include "parallel/topology.h"

namespace olmoe {

void check_placement(Communicator& world, MeshShape mesh) {
  const auto topology = describe_topology(gather_text(world, host_name()), mesh);
  log::info("{}", topology.summary);
  if (topology.scattered.empty()) return;
  throw ConfigError(fmt::format(
      "{}: the ranks of {} are spread over hosts, although they fit into one: fill one host after the other "
      "(mpirun --map-by slot, srun --distribution=block), not round-robin",
      topology.summary, fmt::join(topology.scattered, " and of ")));
}

}  // namespace olmoe
