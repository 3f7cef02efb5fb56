// mpirun olmoe-doctor CONFIG.yaml [path.to.key=value ...]
#include <cstdio>

#include "apps/command_line.h"
#include "core/error.h"
#include "core/version.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"
#include "trainer/job/launch.h"
#include "trainer/job/watchdog.h"
#include "trainer/preflight/disk_notices.h"
#include "trainer/preflight/doctor_probes.h"
#include "trainer/start_agreement.h"

namespace {

using namespace olmoe;

constexpr auto kGo = ExitCode::ok, kNoGo = ExitCode::internal;

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  std::optional<double> slow_below;
};

ExitCode examine_ranks(const Arguments& arguments, Communicator& world, const std::string& mpi_version) {
  const auto config = load_config(arguments.config, arguments.overrides);
  const auto watchdog = watch_run(config.run, world);
  agree_on_start(world, "olmoe-doctor", mpi_version, config);
  const auto run = resolve_run(config, world.size());
  prepare_process_for(run, /*other_threads=*/0);
  const auto connected = connect_devices(run, world);
  const auto [measures, ranks] = examine(run, *connected, arguments.slow_below);
  const auto verdict = judge(measures, ranks);
  if (world.rank() == 0) std::fputs((describe_disk(config).text + describe(measures, ranks, verdict)).c_str(), stdout);
  return verdict.go() ? kGo : kNoGo;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  CLI::App app{
      "Measures every rank's device, files and links before a long run, names the slow ones, and says go (exit code 0) "
      "or no go (1)."};
  app.add_option("config", arguments.config, "YAML file of the run")->required();
  app.add_option("overrides", arguments.overrides, "path.to.key=value, edited into the config before it is read");
  app.add_option("--slow-below", arguments.slow_below,
                 "share of the median below which a rank is slow, for all figures; by default each has its own")
      ->check(CLI::Range(0.0, 1.0));
  app.set_version_flag("--version", fmt::format("olmoe-doctor {} ({})", kVersion, kGitCommit));
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  return run_launched([&](Communicator& world, const std::string& mpi_version) {
    return examine_ranks(arguments, world, mpi_version);
  });
}
