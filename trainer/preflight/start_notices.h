#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/process/machine.h"
#include "trainer/config/config.h"
#include "trainer/preflight/data_notices.h"
#include "trainer/preflight/disk_notices.h"

namespace olmoe {

/// The checkpoint from which a run resumes, and the number of complete ones in its folder.
struct SavedRun {
  int64_t step = 0, checkpoints = 0;
  std::optional<Config> config;  ///< of the checkpoint; none: a new run
  std::string left_out = {};     ///< as ManifestConfig
};
/// The newest of run.folder, or the one that checkpoint.resume goes back to; the number of those up to it. Throws
/// CheckpointError where it cannot be read.
SavedRun find_saved_run(const Config& config, UnknownKeys unknown = UnknownKeys::refused);

/// What a run's start notices depend on, besides its config.
struct StartState {
  SavedRun saved;
  std::optional<TokenTotals> tokens;
  SharedFiles shared;
  DiskRoom disk{};
  int threads = 1, ranks_here = 1;  ///< threads of a rank; ranks on this machine
  CpuBound cpus;                    ///< for all ranks of this machine
};
/// Reads sizes of token files, disk and machine. Opens no token file.
StartState read_start_state(const Config& config, SavedRun saved);

/// What a user should read before the first step.
struct StartNotices {
  std::vector<std::string> facts;    ///< always: tokens, checkpoints
  std::vector<std::string> notices;  ///< likely mistakes and changes; one sentence each
};
/// For a run on `ranks` ranks; empty for a run that is done.
StartNotices start_notices(const Config& config, int ranks, const StartState& state);

}  // namespace olmoe
