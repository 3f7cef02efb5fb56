#pragma once
#include "trainer/device/gpu_specs.h"

namespace olmoe {

/// All assumptions as expected, or at their slow or fast end.
enum class Outlook { slow, expected, fast };

/// Rates that kernels are assumed to reach on a GPU. No GPU has confirmed any of them for this program; the source of
/// each value is in docs/roofline.md.
struct GpuRates {
  int multiprocessors;
  double memory_byte_per_s;              ///< row kernels and streams of tiles
  double dense_flop_per_s;               ///< cuBLAS on one weight
  double grouped_flop_per_s;             ///< grouped GEMM on a GPU without a model of tiles
  double flash_forward, flash_backward;  ///< FlashAttention-2, FLOP/s with all multiprocessors busy
  double cudnn_forward, cudnn_backward;  ///< cuDNN's attention for compute capability 9.0
  bool has_tiles;    ///< compute capability 9.0: grouped GEMMs are modelled tile by tile, with these:
  double clock_hz;   ///< sustained under power
  double main_loop;  ///< factor on the efficiency of main loops
  double epilogue;   ///< factor on the cycles of epilogues
  double l2_cycles;  ///< latency of a load that misses L1
  double links;      ///< factor on what links carry
  // Between kernels.
  double gap, gap_in_graph;  ///< share of computing
  double short_kernels_s;    ///< launches, sort and sums of one layer's experts, forward or backward
};

GpuRates rates_of(const GpuSpecs& gpu, Outlook outlook);

}  // namespace olmoe
