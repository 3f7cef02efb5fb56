// Profile of a run's steps by LibTorch's profiler, which needs no permission to read a GPU's counters: a row for each
// kernel in order of its start, or for each operator if the run is on a CPU.
//   build/profile_steps CONFIG.yaml [path.to.key=value ...] --out FILE.csv
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>

#include "core/error.h"
#include "core/log.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"
#include "trainer/job/launch.h"
#include "trainer/trainer.h"

namespace {

using namespace olmoe;
namespace profiler = torch::autograd::profiler;
using Activity = torch::profiler::impl::ActivityType;

/// The events of the compute device, in order of their start.
std::vector<const profiler::KinetoEvent*> events_of(const profiler::ProfilerResult& result, c10::DeviceType device) {
  std::vector<const profiler::KinetoEvent*> events;
  for (const auto& event : result.events())
    if (event.deviceType() == device) events.push_back(&event);
  std::sort(events.begin(), events.end(), [](const auto* a, const auto* b) { return a->startNs() < b->startNs(); });
  return events;
}

/// The columns that scripts/gpu/profiled_kernels.py reads.
void write_csv(const std::string& path, const std::vector<const profiler::KinetoEvent*>& events) {
  std::ofstream out(path);
  out << "Duration (ns),Name\n";
  for (const auto* event : events) {
    auto name = event->name();
    std::replace(name.begin(), name.end(), '"', '\'');
    out << event->durationNs() << ",\"" << name << "\"\n";
  }
  if (!out.flush()) throw Error("cannot write " + path);
}

ExitCode profile(const Config& config, Communicator& world, const std::string& path) {
  const auto run = resolve_run(config, world.size());
  prepare_process_for(run, /*other_threads=*/1);
  const auto device = run.device.type();
  Trainer trainer(run, world);
  const torch::profiler::impl::ProfilerConfig how(torch::profiler::impl::ProfilerState::KINETO);
  std::set<Activity> activities{Activity::CPU};
  if (device == c10::kCUDA) activities.insert(Activity::CUDA);
  profiler::prepareProfiler(how, activities);
  profiler::enableProfiler(how, activities, {at::RecordScope::FUNCTION});
  const auto code = trainer.run();
  const auto result = profiler::disableProfiler();
  const auto events = events_of(*result, device);
  if (events.empty()) throw Error("the profiler recorded no events");
  write_csv(path, events);
  log::info("{}: {} events", path, events.size());
  return code;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  std::string config, out;
  std::vector<std::string> overrides;
  CLI::App app{"Profiles the steps of a run on one rank."};
  app.add_option("config", config, "YAML file")->required();
  app.add_option("overrides", overrides, "path.to.key=value");
  app.add_option("--out", out, "CSV file: duration in ns, name")->required();
  CLI11_PARSE(app, argc, argv);
  return run_launched(
      [&](Communicator& world, const std::string&) { return profile(load_config(config, overrides), world, out); });
}
