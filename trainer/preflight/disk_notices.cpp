#include "trainer/preflight/disk_notices.h"

#include <filesystem>

#include "core/files/files.h"
#include "core/text.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/preflight/start_notices.h"

namespace olmoe {

DiskRoom read_disk_room(const std::string& run_folder) {
  std::error_code error;
  const auto folder = existing_folder(run_folder);
  const auto space = std::filesystem::space(folder, error);
  if (error)
    throw ConfigError(fmt::format("run.folder: the file system of {} cannot be read: {}", folder, error.message()));
  return {static_cast<int64_t>(space.capacity), static_cast<int64_t>(space.available)};
}

std::string describe_saves(const PlannedSaves& plan, const DiskRoom& room) {
  return fmt::format(
      "checkpoints: {} each, at most {} at one time,{} {} in all, {} more than now; {} of {} are free on the disk",
      describe_size(plan.each_bytes), plan.most,
      plan.weights > 0 ? fmt::format(" weights alone of at most {} more,", plan.weights) : "",
      describe_size(plan.all_bytes()), describe_size(plan.needed_bytes()), describe_size(room.free_bytes),
      describe_size(room.total_bytes));
}

std::vector<std::string> disk_notices(const Config& config, const PlannedSaves& plan, const DiskRoom& room) {
  if (plan.saves == 0 || plan.needed_bytes() <= room.free_bytes) return {};
  const auto weights =
      plan.weights > 0
          ? fmt::format(", or keep_weights_every_steps = {}, whose {} copies take {} each",
                        config.checkpoint.keep_weights_every_steps, plan.weights, describe_size(plan.weights_bytes))
          : std::string();
  const int64_t keep = config.checkpoint.keep, every = config.checkpoint.keep_every_steps;
  return {
      fmt::format("run.folder: {} more of checkpoints will not fit into the {} that are free ({} of {} each: an "
                  "old one is removed after the next is complete); make room, or change checkpoint.keep = {}{}{}",
                  describe_size(plan.needed_bytes()), describe_size(room.free_bytes), plan.most - plan.present,
                  describe_size(plan.each_bytes), keep, keep == 0 ? ", which keeps all" : "",
                  (keep > 0 && every > 0 ? fmt::format(" or keep_every_steps = {}", every) : "") + weights)};
}

namespace {

/// Of the run as it would start now.
PlannedSaves plan_rest(const Config& config) {
  try {
    const auto saved = find_saved_run(config, UnknownKeys::ignored);
    return plan_saves(config, saved.step, saved.checkpoints);
  } catch (const CheckpointError&) {  // one that cannot be read takes its room all the same
    const auto steps = complete_steps(config.run.folder + "/checkpoints");
    return plan_saves(config, steps.empty() ? 0 : steps.back(), std::ssize(steps));
  }
}

}  // namespace

DiskUse describe_disk(const Config& config) {
  DiskUse out;
  try {
    const auto plan = plan_rest(config);
    if (plan.saves == 0) return out;
    const auto room = read_disk_room(config.run.folder);
    out.text = describe_saves(plan, room) + "\n";
    for (const auto& notice : disk_notices(config, plan, room)) out.text += fmt::format("notice: {}\n", notice);
    check_disk(config, plan, room);
  } catch (const std::exception& error) {
    out.refused = error.what();
    out.text += fmt::format("notice: {}\n", out.refused);
  }
  return out;
}

void check_disk(const Config& config, const PlannedSaves& plan, const DiskRoom& room) {
  if (plan.saves > 0 && plan.each_bytes > room.total_bytes)
    throw ConfigError(
        fmt::format("run.folder: a checkpoint takes {}, more than the whole file system of {}, {}; "
                    "choose another folder",
                    describe_size(plan.each_bytes), config.run.folder, describe_size(room.total_bytes)));
}

}  // namespace olmoe
