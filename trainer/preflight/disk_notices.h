#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/planner/checkpoint_plan.h"

namespace olmoe {

/// Space on the file system of a run folder, or of the folder where it would be made: all, and free for this user.
/// Quotas count only where the file system reports them as such.
struct DiskRoom {
  int64_t total_bytes, free_bytes;
};
/// Throws ConfigError naming run.folder where the system does not report it.
DiskRoom read_disk_room(const std::string& run_folder);

/// "checkpoints: 15.0 MiB each, at most 2 at one time, 30.0 MiB in all, 15.0 MiB more than now; 22.9 MiB of 1.0 GiB are
/// free on the disk".
std::string describe_saves(const PlannedSaves& plan, const DiskRoom& room);
/// A notice where they will not fit into the free space.
std::vector<std::string> disk_notices(const Config& config, const PlannedSaves& plan, const DiskRoom& room);
/// Throws ConfigError where one checkpoint is larger than the whole file system.
void check_disk(const Config& config, const PlannedSaves& plan, const DiskRoom& room);

/// What the checkpoints of a run will take beside what is free below run.folder, where there may be some already.
struct DiskUse {
  std::string text;     ///< describe_saves() and notices, each on a line; empty: nothing is to be saved
  std::string refused;  ///< why a run would be: check_disk(), or a folder that cannot be read; empty: it would not
};
/// Throws nothing.
DiskUse describe_disk(const Config& config);

}  // namespace olmoe
