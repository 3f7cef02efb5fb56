#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/process/machine.h"
#include "trainer/config/config.h"

namespace olmoe {

/// A memory plan and the bound that it is closest to, or exceeds most.
struct MemoryFit {
  enum class Verdict {
    fits,
    close,         ///< fits into free memory, but exceeds kUsableMemory of it; libraries need memory too
    beyond_free,   ///< fits into the bound, but others use too much of it now
    beyond_total,  ///< exceeds the bound: cannot fit
  };
  Verdict verdict;
  int64_t rank_bytes;  ///< the plan of a rank
  int ranks;           ///< that share the bound; 1 where each has its own
  MemoryBound bound;

  double planned_bytes() const { return static_cast<double>(rank_bytes) * ranks; }
};

/// Compares the plan with every bound: of one rank, or of all `ranks` of the machine for a shared bound.
MemoryFit fit_memory(int64_t rank_bytes, int ranks, const std::vector<MemoryBound>& bounds);
/// "2 ranks of 881.0 MiB here are 1.72 GiB, of 22.1 GiB free (the machine)", and the problem, if any.
std::string describe(const MemoryFit& fit);

/// The bounds of a dry run: those of `gpu`; without a name those of this machine for a CPU, or of its GPU. Without a
/// GPU those of the largest in trainer/device/gpu_specs.h: a larger plan fits nowhere.
std::vector<MemoryBound> planned_bounds(const Config& config, const std::string& gpu, const SystemView& system = {});

}  // namespace olmoe
