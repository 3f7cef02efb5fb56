// Time of a grouped GEMM (one GEMM for each expert) on a GPU of compute capability 9.0, tile by tile: the longest of
// its loading warps, its multiplying warps and memory. Model and sources of the constants: docs/roofline.md.
#pragma once
#include <cstdint>
#include <string_view>

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

/// All launches of one grouped GEMM in a step, with `rows` rows each, spread over the experts at random.
struct GroupedProduct {
  std::string_view name;
  TileKernel kernel;
  double rows;
  int64_t experts;
  int64_t m, n, k;  ///< 0 stands for the rows of an expert: of m or k
  double bytes;     ///< of one launch, read and written in device memory
  double launches;

  /// Of one launch.
  double flops() const { return 2 * rows * static_cast<double>(n) * static_cast<double>(m > 0 ? m : k); }
};

struct ProductTime {
  double seconds;   ///< of one launch
  double memory_s;  ///< what memory alone would take
  Limit limit;
  double epilogue;  ///< share of a tile's time in which only the epilogue runs
};
ProductTime product_time(const GroupedProduct& product, const GpuRates& rates);

}  // namespace olmoe
