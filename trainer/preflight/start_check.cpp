#include "trainer/preflight/start_check.h"

#include "core/error.h"
#include "core/log.h"
#include "core/process/process_identity.h"
#include "parallel/agreement.h"
#include "parallel/collectives/rendezvous.h"
#include "trainer/device/device_facts.h"
#include "trainer/job/environment.h"
#include "trainer/job/placement.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/preflight/memory_fit.h"
#include "trainer/preflight/start_notices.h"

namespace olmoe {
namespace {

MemoryFit fit_here(const ResolvedRun& run) {
  const auto plan = plan_memory(run.config, run.mesh, multiprocessors_of(run.device));
  return fit_memory(plan.total(), ranks_on_node(), read_device_facts(run.device).memory);
}

/// Empty where a checkpoint cannot be read: the run reports it when it loads it.
SavedRun saved_run(const ResolvedRun& run) {
  try {
    return find_saved_run(run.config, run.unknown_keys);
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

void check_start(const ResolvedRun& run, Communicator& world) {
  const auto& config = run.config;
  check_placement(world, run.mesh);
  std::optional<MemoryFit> fit;
  agree(world, [&] {
    fit = fit_here(run);
    if (fit->verdict == MemoryFit::Verdict::beyond_total) throw ConfigError("memory: " + describe(*fit));
  });
  const bool enough = fit->verdict == MemoryFit::Verdict::fits;
  if (world.rank() == 0)
    log::write(enough ? log::Level::info : log::Level::warn, "memory: " + describe(*fit));
  else if (!enough && local_rank(process_environment()) == 0)
    log::warn("memory of {}: {}", host_name(), describe(*fit));
  agree(world, [&] {
    if (world.rank() != 0) return;
    const auto start = read_start_state(config, saved_run(run));
    check_disk(config, plan_saves(config, start.saved.step, start.saved.checkpoints), start.disk);
    const auto [facts, notices] = start_notices(config, world.size(), start);
    for (const auto& fact : facts) log::info("{}", fact);
    for (const auto& notice : notices) log::warn("{}", notice);
  });
}

}  // namespace olmoe
