// olmoe-plan CONFIG.yaml [--gpus N] [--gpu NAME ...] [--json | --kernels] [path.to.key=value ...]
#include <cstdio>

#include "apps/command_line.h"
#include "core/error.h"
#include "core/version.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/device/gpu_specs.h"
#include "trainer/job/environment.h"
#include "trainer/job/launch.h"
#include "trainer/planner/kernel_report.h"
#include "trainer/planner/plan_report.h"
#include "trainer/preflight/disk_notices.h"

namespace {

using namespace olmoe;

struct Arguments {
  std::string config;
  std::vector<std::string> gpu_names{"h100"}, overrides;
  int gpus = 0;
  size_t top = 10;
  bool all = false, json = false, kernels = false;
};

/// For the layout that the config names.
std::string print_kernels(const Config& config, const Arguments& arguments) {
  std::string out;
  for (const auto& name : arguments.gpu_names)
    out +=
        (out.empty() ? "" : ",\n") + kernels_json(config, mesh_shape(config, configured_ranks(config)), find_gpu(name));
  return "[" + out + "]\n";
}

/// Plans for --gpus, else for replicate x shard of the config. Prints one table, or one JSON object, for each GPU type.
ExitCode print(const Arguments& arguments) {
  const auto config = load_config(arguments.config, arguments.overrides);
  if (arguments.kernels) {
    std::fputs(print_kernels(config, arguments).c_str(), stdout);
    return ExitCode::ok;
  }
  const int gpus = arguments.gpus > 0 ? arguments.gpus : configured_ranks(config);
  std::string out;
  for (const auto& name : arguments.gpu_names) {
    const auto& gpu = find_gpu(name);
    const auto layouts = plan_layouts(config, gpus, gpu);
    if (!out.empty()) out += arguments.json ? ",\n" : "\n";
    out += arguments.json ? plan_json(config, gpus, gpu, layouts)
                          : describe_plan(config, gpus, gpu, layouts, arguments.all ? layouts.size() : arguments.top);
  }
  std::fputs((arguments.json ? "[" + out + "]\n" : out + "\n" + describe_disk(config).text).c_str(), stdout);
  return ExitCode::ok;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  CLI::App app{
      "Predicts memory, traffic and speed of every layout of a run on a number of GPUs, the best first. Runs nothing."};
  app.add_option("config", arguments.config, "YAML file of the run")->required();
  app.add_option("overrides", arguments.overrides, "path.to.key=value, edited into the config before it is read");
  app.add_option("--gpus", arguments.gpus, "GPUs to plan for; else replicate x shard of the config")
      ->check(CLI::Range(1, kMostGpus));
  app.add_option("--gpu", arguments.gpu_names, "GPU, of " + gpu_names() + "; several with commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  app.add_option("--top", arguments.top, "layouts to print")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_flag("--all", arguments.all, "print all layouts");
  app.add_flag("--json", arguments.json, "print all layouts as a JSON array with one object for each GPU");
  app.add_flag("--kernels", arguments.kernels,
               "print what is predicted of single kernels and of their variants in the config's own layout, as JSON")
      ->excludes("--gpus");
  app.set_version_flag("--version", fmt::format("olmoe-plan {} ({})", kVersion, kGitCommit));
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  return run_launched(
      [&](Communicator& world, const std::string&) { return world.rank() == 0 ? print(arguments) : ExitCode::ok; });
}
