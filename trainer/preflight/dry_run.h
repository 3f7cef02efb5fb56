#pragma once
#include <string>

#include "trainer/job/resolved_run.h"

namespace olmoe {

/// The first lines of a run and of a dry run: mesh, parameters, FLOPs, memory of a rank (on a GPU with so many
/// multiprocessors), tokens and steps.
std::string describe_run(const Config& config, MeshShape mesh, int multiprocessors);

/// describe_run with device, threads, versions and git commit.
std::string describe_start(const ResolvedRun& run, const std::string& mpi_version);

/// What --dry-run prints, and whether memory and disk suffice.
struct DryRun {
  std::string text;
  bool fits;
};
/// Checks a run of `world_size` ranks without allocating or writing anything: layout, initial weights, token files,
/// counts, memory of a rank, predicted speed on `gpu` (a name of trainer/device/gpu_specs.h, or empty),
/// start_notices(), and a list of what was checked. Token files that this machine lacks are listed; the others are read
/// as at the start of a run. `unknown`: of checkpoints. Throws as the run would, except for memory and disk, which may
/// be another machine's.
DryRun dry_run(const Config& config, int world_size, const std::string& gpu, UnknownKeys unknown);

}  // namespace olmoe
