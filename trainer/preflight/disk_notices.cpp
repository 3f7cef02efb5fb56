#include "trainer/preflight/disk_notices.h"

#include <algorithm>
#include <filesystem>

#include "core/files/files.h"
#include "core/text.h"
#include "model/flops.h"
#include "trainer/config/save_cadence.h"

namespace olmoe {
namespace {

int64_t count_all_saves(const Config& config, int64_t step) {
  const auto& checkpoint = config.checkpoint;
  const int64_t steps = config.train.steps;
  if (step >= steps) return 0;
  return count_saves(checkpoint, step, steps) + (checkpoint.save_last && !save_due(checkpoint, steps) ? 1 : 0);
}

/// Checkpoints that stay although newer ones are there, at most.
int64_t count_kept_longer(const Config& config, int64_t step) {
  const auto& checkpoint = config.checkpoint;
  const int64_t every = checkpoint.keep_every_steps;
  return checkpoint.keep_best + (every > 0 ? count_saves(checkpoint, step, config.train.steps, every) : 0);
}

}  // namespace

DiskRoom read_disk_room(const std::string& run_folder) {
  std::error_code error;
  const auto folder = existing_folder(run_folder);
  const auto space = std::filesystem::space(folder, error);
  if (error)
    throw ConfigError(fmt::format("run.folder: the file system of {} cannot be read: {}", folder, error.message()));
  return {static_cast<int64_t>(space.capacity), static_cast<int64_t>(space.available)};
}

int64_t PlannedSaves::needed_bytes() const {
  constexpr double kMost = 9e18;  // that an int64_t counts
  return static_cast<int64_t>(std::min(kMost, static_cast<double>(each_bytes) * static_cast<double>(most - present)));
}

PlannedSaves plan_saves(const Config& config, int64_t step, int64_t present) {
  const int64_t element = std::max<int64_t>(4, element_bytes(config.train.compute_dtype));
  const int64_t saves = count_all_saves(config, step), keep = config.checkpoint.keep;
  int64_t most = present + saves;
  if (saves > 0 && keep > 0) most = std::min(most, std::max(keep, present) + count_kept_longer(config, step) + 1);
  return {3 * element * count_parameters(config.model).total, saves, present, most};
}

std::string describe_saves(const PlannedSaves& plan, const DiskRoom& room) {
  return fmt::format("checkpoints: {} each, at most {} at one time, {} more than now; {} of {} are free on the disk",
                     describe_size(plan.each_bytes), plan.most, describe_size(plan.needed_bytes()),
                     describe_size(room.free_bytes), describe_size(room.total_bytes));
}

std::vector<std::string> disk_notices(const Config& config, const PlannedSaves& plan, const DiskRoom& room) {
  if (plan.saves == 0 || plan.needed_bytes() <= room.free_bytes) return {};
  const int64_t keep = config.checkpoint.keep;
  return {
      fmt::format("run.folder: {} more of checkpoints will not fit into the {} that are free ({} of {} each: an "
                  "old one is removed after the next is complete); make room, or change checkpoint.keep = {}{}",
                  describe_size(plan.needed_bytes()), describe_size(room.free_bytes), plan.most - plan.present,
                  describe_size(plan.each_bytes), keep, keep == 0 ? ", which keeps all" : "")};
}

void check_disk(const Config& config, const PlannedSaves& plan, const DiskRoom& room) {
  if (plan.saves > 0 && plan.each_bytes > room.total_bytes)
    throw ConfigError(
        fmt::format("run.folder: a checkpoint takes {}, more than the whole file system of {}, {}; "
                    "choose another folder",
                    describe_size(plan.each_bytes), config.run.folder, describe_size(room.total_bytes)));
}

}  // namespace olmoe
