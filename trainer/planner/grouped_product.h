// Time of a grouped GEMM (one GEMM for each expert) on a GPU of compute capability 9.0, tile by tile: the longest of
// its loading warps, its multiplying warps and memory. Model and sources of the constants: docs/roofline.md.
#pragma once
#include <cstdint>

#include "model/cost.h"
#include "trainer/planner/gpu_rates.h"

namespace olmoe {

/// Dense bf16 FLOPs of one multiprocessor in a cycle, of compute capability 9.0.
constexpr double kFlopPerCycle = 4096;

/// Cycles that loading warps issue for some work, and their dependent loads from the L2.
struct LoadCycles {
  double issued = 0, l2_waits = 0;
};

/// How a kernel computes one tile of its GEMM.
struct TileKernel {
  double efficiency;  ///< of the tensor cores in the main loop, at the sustained clock
  double epilogue;    ///< cycles of what follows it
  int64_t rows = 128, columns = 256;
  int64_t cluster = 1;                 ///< tiles of one expert side by side along its rows that run together
  LoadCycles k_tile = {}, start = {};  ///< for 64 of K, and once a tile
  bool ping_pong = false;              ///< two tiles at once: the epilogue of one overlaps the main loop of the other
  bool counter = false;                ///< tiles go to the block that asks next, not round-robin
};

enum class Limit { tensor_cores, loading_warps, memory };

/// A grouped GEMM by the kernel that computes it; its rows are spread over the experts as chance does.
struct GroupedProduct {
  GroupedGemm gemm;
  TileKernel kernel;
};

struct ProductTime {
  double seconds;   ///< of one launch
  double memory_s;  ///< what memory alone would take
  Limit limit;
  double epilogue;  ///< share of a tile's time in which only the epilogue runs
};
ProductTime product_time(const GroupedProduct& product, const GpuRates& rates);

}  // namespace olmoe
