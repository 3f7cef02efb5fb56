#include "trainer/planner/gpu_rates.h"

#include "trainer/planner/grouped_product.h"

namespace olmoe {
namespace {

/// An assumption at its slow end, as expected, and at its fast end.
struct Range {
  double slow, expected, fast;
  double at(Outlook outlook) const {
    return outlook == Outlook::slow ? slow : outlook == Outlook::fast ? fast : expected;
  }
};

constexpr double kH100Flops = 989.5e12;  // by which published FLOP/s are divided

/// cuBLAS on large bf16 GEMMs: 0.66 to 0.76 of an H100's peak are published. Ours, N x 2048 x 2048 to 50304, are
/// smaller, and power limits a GPU that computes for minutes.
constexpr Range kDenseGemm{0.54, 0.60, 0.70};
/// Between published rates of grouped GEMM on an H100 with data movement by ATen and with fused movement.
constexpr Range kGroupedGemm{0.42, 0.50, 0.58};
/// A plain copy of large tensors reaches 0.90 to 0.93; rows with gathers and statistics less.
constexpr Range kMemory{0.72, 0.80, 0.90};
/// Causal, heads of 128, read off the charts for an H100 in FlashAttention-3's paper, in FLOP/s that are executed. Low
/// for an A100.
constexpr double kFlashForward = 330e12 / kH100Flops, kFlashBackward = 290e12 / kH100Flops;
constexpr double kCudnnForward = 560e12 / kH100Flops, kCudnnBackward = 430e12 / kH100Flops;
constexpr Range kAttention{0.85, 1, 1.15};
/// Share of the clock at which the data sheet's FLOP/s hold. Epilogues run at it; for main loops only its product with
/// their efficiency was fitted.
constexpr double kSustainedClock = 0.93;
/// Beyond the largest residual of the published figures, see tests/scripts/test_kernel_model.py.
constexpr Range kMainLoop{0.90, 1, 1.10};
constexpr Range kEpilogue{1.3, 1, 0.8};
constexpr Range kL2Cycles{450, 300, 230};
/// Of the share that trainer/planner/transfer_time.cpp takes, which is 0.80 of the data sheet's.
constexpr Range kLinks{0.80, 1, 1.12};
/// Some 60 launches for each block and direction. In a graph one starts about a microsecond after the other.
constexpr Range kGap{0.05, 0.03, 0.015}, kGapInGraph{0.01, 0.005, 0.003};
constexpr Range kShortKernels_s{80e-6, 50e-6, 30e-6};

}  // namespace

GpuRates rates_of(const GpuSpecs& gpu, Outlook outlook) {
  const auto peak = [&](double share) { return gpu.bf16_flop_per_s * share; };
  const double attention = kAttention.at(outlook);
  return {.multiprocessors = gpu.multiprocessors,
          .memory_byte_per_s = gpu.memory_byte_per_s * kMemory.at(outlook),
          .dense_flop_per_s = peak(kDenseGemm.at(outlook)),
          .grouped_flop_per_s = peak(kGroupedGemm.at(outlook)),
          .flash_forward = peak(kFlashForward * attention),
          .flash_backward = peak(kFlashBackward * attention),
          .cudnn_forward = peak(kCudnnForward * attention),
          .cudnn_backward = peak(kCudnnBackward * attention),
          .has_tiles = gpu.compute_capability == 90,
          .clock_hz = kSustainedClock * gpu.bf16_flop_per_s / (gpu.multiprocessors * kFlopPerCycle),
          .main_loop = kMainLoop.at(outlook),
          .epilogue = kEpilogue.at(outlook),
          .l2_cycles = kL2Cycles.at(outlook),
          .links = kLinks.at(outlook),
          .gap = kGap.at(outlook),
          .gap_in_graph = kGapInGraph.at(outlook),
          .short_kernels_s = kShortKernels_s.at(outlook)};
}

}  // namespace olmoe
