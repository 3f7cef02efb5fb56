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

/// Whether a run that has gone back as `run` asks for wrote the newest readable one of `later`, oldest first: it has
/// the same checkpoint.resume, and took the sequences that `run` takes.
bool has_gone_back(const Checkpointer& checkpointer, std::span<const int64_t> later, const ResolvedRun& run) {
  for (const auto step : later | std::views::reverse) {
    try {
      const auto manifest = checkpointer.read_manifest(step);
      const auto before = read_manifest_config(manifest, checkpointer.step_folder(step), run.unknown_keys).config;
      return before.checkpoint.resume == run.config.checkpoint.resume &&
             skip_problem(before, run.config, manifest.sequences).empty();
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

int64_t rewind(const Checkpointer& checkpointer, int64_t step, const ResolvedRun& run, const SequenceSource& source,
               Communicator& world, const std::function<void()>& ensure_leased) {
  const auto steps = checkpointer.steps();
  const auto later =
      std::span(steps).subspan(static_cast<size_t>(std::ranges::upper_bound(steps, step) - steps.begin()));
  const bool there = std::ranges::binary_search(steps, step);
  if (later.empty() && there) return step;
  if (has_gone_back(checkpointer, later, run)) {
    log::info(
        "checkpoint.resume={}: this run has gone back to it already, so it resumes from its newest checkpoint. To "
        "go back to it again, move later ones away",
        step);
    return later.back();
  }
  agree(world, [&] {
    if (!there)
      throw CheckpointError(fmt::format("checkpoint.resume={}: {} has no checkpoint of that step; it has {}", step,
                                        run.config.run.folder,
                                        steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", "))));
  });
  const auto manifest = checkpointer.read_manifest(step);
  agree(world,
        [&] { check_same_run(manifest, checkpointer.step_folder(step), run.config, source, world, run.unknown_keys); });
  ensure_leased();
  agree(world, [&] {
    if (world.rank() == 0) keep_metrics(run.config.run.folder);
  });
  for (const auto one : later | std::views::reverse)
    checkpointer.set_aside(one, SetAside::abandoned,
                           fmt::format("checkpoint.resume={} goes back before step {}", step, one));
  return step;
}

}  // namespace olmoe
