// dh = gather(dy) w of each row's expert, and from it, without storing it, dz, h and the gradient of each row's score.
// That gradient is a sum over F: each block sums its columns, and the partial sums of a row are then added in order.
// Shapes as in kernels/experts.h.
#pragma once
#include "kernels/hopper/epilogues.cuh"
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"

namespace olmoe::kernels::hopper {

struct DownBackward : ExpertGemm<RowsAlongM<GatheredRows>, Along::K, Along::MN, DownBackwardEpilogue> {
  /// Prefetches the operands of the epilogue into the L2 cache during the GEMM: one 128-byte line per strip and row.
  static __device__ void prefetch(const Params& p, const TileCursor& at, int warp) {
    constexpr int kParts = kTileN / kStripColumns, kLines = kWarpRows * kParts;
    const WarpRows rows(at, warp);
    const int64_t F = p.epilogue.F;
    for (int line = static_cast<int>(threadIdx.x) % cuda::kWarp; line < kLines; line += cuda::kWarp) {
      const int row = line / kParts, column = line % kParts * kStripColumns;
      const Element* const gate = p.epilogue.z_R2F + (rows.first + row) * 2 * F + int64_t{at.n} * kTileN + column;
      if (row < rows.count)
        asm volatile("prefetch.global.L2 [%0]; prefetch.global.L2 [%1];" ::"l"(gate), "l"(gate + F));
    }
  }

  static Params params(const at::Tensor& dy_ND, const ScoredRows& rows, const at::Tensor& z_R2F,
                       const at::Tensor& down_EDF, const SwigluGrads& out, const at::Tensor& partial_dscores) {
    const auto E = static_cast<int32_t>(down_EDF.size(0)), D = static_cast<int32_t>(down_EDF.size(1));
    const auto F = static_cast<int32_t>(down_EDF.size(2));
    return {.tiles = expert_tiles(rows.permutation, 0, F / kTileN),
            .K = D,
            .a = gathered_rows(dy_ND, rows.permutation),
            .b = B(bf16(down_EDF), {F, D, E}, {cute::_1{}, F, int64_t{D} * F}, 0),
            .epilogue = {.scores_R = rows.scores_R.const_data_ptr<float>(),
                         .z_R2F = z_R2F.const_data_ptr<Element>(),
                         .dz_R2F = out.dz_R2F.data_ptr<Element>(),
                         .h_RF = out.h_RF.data_ptr<Element>(),
                         .partial_dscores = partial_dscores.data_ptr<float>(),
                         .F = F}};
  }
};

}  // namespace olmoe::kernels::hopper
