#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/process/machine.h"
#include "trainer/config/config.h"

namespace olmoe {

/// A plan of memory beside the bound that it comes closest to, or goes furthest beyond.
struct MemoryFit {
  enum class Verdict {
    fits,
    close,         ///< within what is free, but beyond kUsableMemory of it: what no plan counts needs room too
    beyond_free,   ///< within what the bound allows, of which others take too much now
    beyond_total,  ///< cannot fit, whatever else runs
  };
  Verdict verdict;
  int64_t rank_bytes;  ///< the plan of a rank
  int ranks;           ///< that share the bound, 1 where each has it to itself
  MemoryBound bound;

  double planned_bytes() const { return static_cast<double>(rank_bytes) * ranks; }
};

/// Compares a rank's plan, and that of `ranks` of one machine for bounds that they share, with every bound.
MemoryFit fit_memory(int64_t rank_bytes, int ranks, const std::vector<MemoryBound>& bounds);
/// "2 ranks of 881.0 MiB here are 1.72 GiB, of 22.1 GiB free (the machine)", and what is wrong with that.
std::string describe(const MemoryFit& fit);

/// What a dry run compares a plan with: the GPU that is named; else, on a CPU, this machine, and on GPUs the one that
/// is here. Where none is named or here, the largest of trainer/device/gpu_specs.h: a plan beyond that fits nowhere.
std::vector<MemoryBound> planned_bounds(const Config& config, const std::string& gpu, const SystemView& system = {});

}  // namespace olmoe
