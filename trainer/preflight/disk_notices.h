#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// Room on the file system where a run folder lies, or would be made: all of it, and what this user may still fill.
/// Quotas are seen only where the file system tells them so.
struct DiskRoom {
  int64_t total_bytes, free_bytes;
};
/// Throws ConfigError naming run.folder where the system does not tell.
DiskRoom read_disk_room(const std::string& run_folder);

/// What a run saves from where it starts.
struct PlannedSaves {
  int64_t each_bytes;  ///< of a checkpoint: weights and both moments; headers, some hundred bytes a tensor, come on top
  int64_t saves;       ///< that are still to come, but for one that a signal asks for
  int64_t present;     ///< complete checkpoints that are there
  int64_t most;        ///< that are there at one time: an old one is removed after the next is whole

  /// What all of them take beyond those that are there.
  int64_t needed_bytes() const;
};
/// Of a run that goes on after `step` with `present` checkpoints in its folder.
PlannedSaves plan_saves(const Config& config, int64_t step, int64_t present);

/// "checkpoints: 15.0 MiB each, at most 2 at one time, 30.0 MiB more than now; 22.9 MiB of 1.0 GiB are free on the
/// disk".
std::string describe_saves(const PlannedSaves& plan, const DiskRoom& room);
/// Where that will not fit into what is free.
std::vector<std::string> disk_notices(const Config& config, const PlannedSaves& plan, const DiskRoom& room);
/// Throws ConfigError where one checkpoint is more than the whole file system.
void check_disk(const Config& config, const PlannedSaves& plan, const DiskRoom& room);

}  // namespace olmoe
