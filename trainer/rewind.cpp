#include "trainer/rewind.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <ranges>

#include "core/error.h"
#include "core/files/files.h"
#include "core/log.h"
#include "parallel/agreement.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/manifest_config.h"
#include "trainer/same_run.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

std::span<const int64_t> later_than(int64_t step, const std::vector<int64_t>& steps) {
  return std::span(steps).subspan(static_cast<size_t>(std::ranges::upper_bound(steps, step) - steps.begin()));
}

/// has_gone_back() of the newest readable one of `later`, oldest first.
bool newest_has_gone_back(const Checkpointer& checkpointer, std::span<const int64_t> later, const ResolvedRun& run) {
  for (const auto step : later | std::views::reverse) {
    try {
      const auto manifest = checkpointer.read_manifest(step);
      return has_gone_back(manifest, checkpointer.step_folder(step), run.config, run.unknown_keys);
    } catch (const DamagedCheckpoint&) {
      continue;  // thrown on all ranks; says nothing about who wrote it
    }
  }
  return false;
}

void keep_metrics(const std::string& run_folder) {
  const auto path = run_folder + "/metrics.jsonl";
  if (!fs::is_regular_file(path)) return;
  const auto kept = unused_name(path, "abandoned");
  write_to_disk(run_folder, 0, [&] { fs::copy_file(path, kept); });
  log::info("the metrics so far are kept as {}", kept);
}

}  // namespace

bool has_gone_back(const Manifest& manifest, const std::string& folder, const Config& config, UnknownKeys unknown) {
  try {
    const auto before = read_manifest_config(manifest, folder, unknown).config;
    return before.checkpoint.resume == config.checkpoint.resume &&
           skip_problem(before, config, manifest.sequences).empty();
  } catch (const CheckpointError&) {
    return false;
  }
}

bool goes_back(const Checkpointer& checkpointer, int64_t step, const ResolvedRun& run, Communicator& world) {
  const auto steps = checkpointer.steps();
  const auto later = later_than(step, steps);
  const bool is_there = std::ranges::binary_search(steps, step);
  if (later.empty() && is_there) return false;
  if (newest_has_gone_back(checkpointer, later, run)) {
    log::info(
        "checkpoint.resume={}: this run has gone back to it already, so it resumes from its newest checkpoint. To go "
        "back to it again, move later ones away",
        step);
    return false;
  }
  agree(world, [&] {
    if (!is_there)
      throw CheckpointError(fmt::format("checkpoint.resume={}: {} has no checkpoint of that step; it has {}", step,
                                        run.config.run.folder,
                                        steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", "))));
  });
  return true;
}

void abandon_later(const Checkpointer& checkpointer, int64_t step, const std::string& run_folder, Communicator& world) {
  agree(world, [&] {
    if (world.rank() == 0) keep_metrics(run_folder);
  });
  checkpointer.set_weights_aside(step);  // first: later checkpoints are what makes a start after a kill do this again
  const auto steps = checkpointer.steps();
  for (const auto one : later_than(step, steps) | std::views::reverse)
    checkpointer.set_aside(one, SetAside::abandoned,
                           fmt::format("checkpoint.resume={} goes back before step {}", step, one));
}

}  // namespace olmoe
