// mpirun olmoe-train CONFIG.yaml [path.to.key=value ...]
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "core/error.h"
#include "core/log.h"
#include "core/version.h"
#include "trainer/devices.h"
#include "trainer/environment.h"
#include "trainer/gpu_specs.h"
#include "trainer/launch.h"
#include "trainer/layout.h"
#include "trainer/placement.h"
#include "trainer/preemption.h"
#include "trainer/report.h"
#include "trainer/trainer.h"
#include "trainer/watchdog.h"

namespace {

using namespace olmoe;

struct Arguments {
  std::string config, gpu;
  std::vector<std::string> overrides;
  bool dry_run = false, print_config = false;
  int ranks = 0;
};

ExitCode train(const Config& config, Communicator& world, const std::string& mpi_version) {
  at::set_num_threads(choose_threads(config.run.threads, ranks_on_node()));
  prepare_device(config);
  const preemption::Listener signals(world);
  log::info("{}", describe_start(config, world.size(), mpi_version));
  const auto watchdog = watch_run(config.run, world);
  const auto code = [&] {
    check_placement(world, mesh_shape(config, world.size()));
    const auto ranks = connect_devices(config, world);
    Trainer trainer(config, *ranks);
    watchdog->record(*ranks);
    return trainer.run();
  }();
  world.barrier();  // all ranks have taken the run down: what they do after this is not watched
  return code;
}

/// Prints what was asked for. A dry run plans for --ranks, else the ranks that run, else those that the config names.
ExitCode print(const Arguments& arguments, const Config& config, int running) {
  const int ranks = arguments.ranks > 0 ? arguments.ranks : running > 1 ? running : configured_ranks(config);
  const auto text = arguments.print_config ? write_config(config) : dry_run(config, ranks, arguments.gpu);
  std::fputs(text.c_str(), stdout);
  return ExitCode::ok;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  CLI::App app{"Pretrains OLMoE and its dense twin. Started again, a run goes on where its folder stands."};
  app.add_option("config", arguments.config, "YAML file")->required();
  app.add_option("overrides", arguments.overrides, "path.to.key=value, edited into the config before it is read");
  auto* dry = app.add_flag("--dry-run", arguments.dry_run, "check everything and print the plan; run nothing");
  app.add_flag("--print-config", arguments.print_config, "print the resolved config; run nothing");
  app.add_option("--ranks", arguments.ranks, "ranks to plan for with --dry-run")->check(CLI::Range(1, kMostRanks));
  app.add_option("--gpu", arguments.gpu, "GPU that --dry-run predicts the speed of: " + gpu_names())->needs(dry);
  app.set_version_flag("--version", fmt::format("olmoe-train {} ({})", kVersion, kGitCommit));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::config);
  }
  return run_launched([&](Communicator& world, const std::string& mpi_version) {
    const auto config = load_config(arguments.config, arguments.overrides);
    if (!arguments.dry_run && !arguments.print_config) return train(config, world, mpi_version);
    return world.rank() == 0 ? print(arguments, config, world.size()) : ExitCode::ok;
  });
}
