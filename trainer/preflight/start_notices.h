#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/process/machine.h"
#include "trainer/config/config.h"
#include "trainer/preflight/data_notices.h"
#include "trainer/preflight/disk_notices.h"

namespace olmoe {

/// The checkpoint that a run goes on from, and how many complete ones its folder holds.
struct SavedRun {
  int64_t step = 0, checkpoints = 0;
  std::optional<Config> config;  ///< that it was saved with; none: a new run
};
/// Throws CheckpointError or ConfigError where the newest checkpoint of the folder cannot be read.
SavedRun find_saved_run(const std::string& run_folder);

/// What a run begins with beside its config.
struct StartState {
  SavedRun saved;
  std::optional<TokenTotals> tokens;
  SharedFiles shared;
  DiskRoom disk{};
  int threads = 1, ranks_here = 1;  ///< of a rank; ranks on this machine
  CpuBound cpus;                    ///< for all of them
};
/// Looks at token files, disk and machine, and opens no token file.
StartState read_start_state(const Config& config, SavedRun saved);

/// What a person should read before the first step.
struct StartNotices {
  std::vector<std::string> facts;    ///< always: tokens, checkpoints
  std::vector<std::string> notices;  ///< what does not fit, or is not as it was; one sentence each
};
/// Of a run on `ranks` ranks; nothing of one that is done.
StartNotices start_notices(const Config& config, int ranks, const StartState& state);

}  // namespace olmoe
