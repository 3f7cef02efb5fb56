#include "trainer/job/resolved_run.h"

#include <ATen/Parallel.h>

#include "core/process/threads.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"

namespace olmoe {

ResolvedRun resolve_run(const Config& config, int world_size) {
  return {.config = config,
          .mesh = mesh_shape(config, world_size),
          .device = device_of_rank(config.train.device),
          .threads = choose_threads(config.run.threads, ranks_on_node()),
          .batches = config.train.batches(world_size)};
}

void prepare_process_for(const ResolvedRun& run, int other_threads) {
  check_threads(run.threads + other_threads);
  at::set_num_threads(run.threads);
  prepare_device(run);
}

}  // namespace olmoe
