#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// Space on the file system of a run folder, or of the folder where it would be made: all, and free for this user.
/// Quotas count only where the file system reports them as such.
struct DiskRoom {
  int64_t total_bytes, free_bytes;
};
/// Throws ConfigError naming run.folder where the system does not report it.
DiskRoom read_disk_room(const std::string& run_folder);

/// Checkpoints that a run will save.
struct PlannedSaves {
  int64_t each_bytes;  ///< of a checkpoint: weights and both moments, without headers of some hundred bytes a tensor
  int64_t saves;       ///< planned ones, without that of a signal
  int64_t present;     ///< complete checkpoints in the folder
  int64_t most;        ///< at one time: an old one is removed after the next is complete

  /// Bytes of all of them beyond the present ones.
  int64_t needed_bytes() const;
};
/// For a run that resumes after `step` with `present` checkpoints in its folder.
PlannedSaves plan_saves(const Config& config, int64_t step, int64_t present);

/// "checkpoints: 15.0 MiB each, at most 2 at one time, 30.0 MiB more than now; 22.9 MiB of 1.0 GiB are free on the
/// disk".
std::string describe_saves(const PlannedSaves& plan, const DiskRoom& room);
/// A notice where they will not fit into the free space.
std::vector<std::string> disk_notices(const Config& config, const PlannedSaves& plan, const DiskRoom& room);
/// Throws ConfigError where one checkpoint is larger than the whole file system.
void check_disk(const Config& config, const PlannedSaves& plan, const DiskRoom& room);

}  // namespace olmoe
