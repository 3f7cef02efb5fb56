#pragma once
#include <string>

#include "trainer/job/resolved_run.h"

namespace olmoe {

/// The first lines of a run, and what --dry-run prints: mesh, parameters, FLOPs, memory of a rank (where it is a GPU,
/// one of so many multiprocessors), tokens and steps.
std::string describe_run(const Config& config, MeshShape mesh, int multiprocessors);

/// describe_run with what it runs on: device, threads, versions, git commit.
std::string describe_start(const ResolvedRun& run, const std::string& mpi_version);

/// What --dry-run prints, and whether its plan of memory fits where it is planned for.
struct DryRun {
  std::string text;
  bool fits;
};
/// Checks a run without allocating or writing anything: layout, initial weights, token files, counts, memory of a rank
/// of `world_size`, its predicted speed on `gpu` (a name of trainer/device/gpu_specs.h, or empty), start_notices(), and
/// what was checked. Token files that this machine lacks are listed, and do not fail it; the others are read as at the
/// start of a run. Throws like the run would, but for memory and disks, which may be another machine's.
DryRun dry_run(const Config& config, int world_size, const std::string& gpu);

}  // namespace olmoe
