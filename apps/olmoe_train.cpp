// mpirun olmoe-train CONFIG.yaml [path.to.key=value ...]
#include <chrono>
#include <cstdio>

#include "apps/command_line.h"
#include "core/error.h"
#include "core/log.h"
#include "core/version.h"
#include "parallel/agreement.h"
#include "parallel/error_text.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/device/gpu_specs.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"
#include "trainer/job/launch.h"
#include "trainer/job/preemption.h"
#include "trainer/job/watchdog.h"
#include "trainer/preflight/dry_run.h"
#include "trainer/preflight/start_check.h"
#include "trainer/start_agreement.h"
#include "trainer/trainer.h"

namespace {

using namespace olmoe;

constexpr int kOtherThreads = 3;  // of the data loader, the lease and a save; the watchdog's runs already

struct Arguments {
  std::string config, gpu;
  std::vector<std::string> overrides;
  bool dry_run = false, print_config = false, ignore_unknown = false;
  int ranks = 0;

  UnknownKeys unknown_keys() const { return ignore_unknown ? UnknownKeys::ignored : UnknownKeys::refused; }
  /// The program and the options that must be the same on all ranks.
  std::string program() const {
    return fmt::format("olmoe-train{}{}", dry_run || print_config ? " --dry-run or --print-config" : "",
                       ignore_unknown ? " --ignore-unknown" : "");
  }
};

/// The trainer's end waits for a save in flight, however long its disk takes. Where this rank alone has an error, the
/// others wait meanwhile: it says so at once, and ends itself if that takes long.
ExitCode run_to_the_end(Trainer& trainer) {
  try {
    return trainer.run();
  } catch (const std::exception& error) {
    if (trainer.saving() && !is_agreed(error)) {
      log::error("{}; the checkpoint that is being written is not finished", error_text(error));
      end_within(std::chrono::seconds(30), exit_code_of(error));
    }
    throw;
  }
}

ExitCode train(const Arguments& arguments, const Config& config, Communicator& world, const std::string& mpi_version) {
  std::shared_ptr<const RunLease> lease;  // released last: the watchdog still writes to the folder
  const auto watchdog = watch_run(config.run, world);
  agree_on_start(world, arguments.program(), mpi_version, config);
  auto run = resolve_run(config, world.size());
  run.unknown_keys = arguments.unknown_keys();
  const int sending = config.checkpoint.after_save.empty() ? 0 : 1;
  prepare_process_for(run, kOtherThreads + sending);
  const preemption::Listener signals(world);
  world.barrier();  // once the first line is printed, every rank answers signals
  log::info("{}", describe_start(run, mpi_version));
  const auto code = [&] {
    check_start(run, world);
    const auto ranks = connect_devices(run, world);
    Trainer trainer(run, *ranks);
    lease = trainer.lease();
    watchdog->record(*ranks);
    return run_to_the_end(trainer);
  }();
  world.barrier();  // all ranks have ended the run; the watchdog does not cover what follows
  return code;
}

/// Prints the config or a dry run. A dry run plans for --ranks, else the running ranks, else those of the config.
ExitCode print(const Arguments& arguments, const Config& config, int running) {
  const int ranks = arguments.ranks > 0 ? arguments.ranks : running > 1 ? running : configured_ranks(config);
  const auto [text, fits] = arguments.print_config ? DryRun{write_config(config), true}
                                                   : dry_run(config, ranks, arguments.gpu, arguments.unknown_keys());
  std::fputs(text.c_str(), stdout);
  return fits ? ExitCode::ok : ExitCode::config;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  CLI::App app{"Pretrains OLMoE and its dense twin. Started again, a run resumes from its newest checkpoint."};
  app.add_option("config", arguments.config, "YAML file")->required();
  app.add_option("overrides", arguments.overrides, "path.to.key=value, edited into the config before it is read");
  auto* dry = app.add_flag("--dry-run", arguments.dry_run,
                           "check config, layout, initial weights and token files, and print the plan; run nothing");
  app.add_flag("--print-config", arguments.print_config, "print the resolved config; run nothing");
  app.add_flag("--ignore-unknown", arguments.ignore_unknown, kIgnoreUnknownHelp);
  app.add_option("--ranks", arguments.ranks, "ranks to plan for with --dry-run")
      ->check(CLI::Range(1, kMostRanks))
      ->needs(dry);
  app.add_option("--gpu", arguments.gpu, "GPU that --dry-run predicts the speed of: " + gpu_names())->needs(dry);
  app.set_version_flag("--version", fmt::format("olmoe-train {} ({})", kVersion, kGitCommit));
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  return run_launched([&](Communicator& world, const std::string& mpi_version) {
    const auto config = load_config(arguments.config, arguments.overrides);
    if (!arguments.dry_run && !arguments.print_config) return train(arguments, config, world, mpi_version);
    agree_on_start(world, arguments.program(), mpi_version, config);
    return world.rank() == 0 ? print(arguments, config, world.size()) : ExitCode::ok;
  });
}
