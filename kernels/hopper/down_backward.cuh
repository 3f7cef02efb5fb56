// dh = gather(dy) w of each row's expert, and from it, without writing it, dz, h and the gradient of each row's score.
// The score's gradient is a sum over F: a block sums its columns, and what the blocks of a row found is added in their
// order. Shapes as in kernels/experts.h, but N: tiles of F.
#pragma once
#include "kernels/hopper/epilogues.cuh"
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"

namespace olmoe::kernels::hopper {

struct DownBackward : ExpertGemm<RowsAlongM<GatheredRows>, Along::K, Along::MN, DownBackwardEpilogue> {
  /// What the epilogue reads, to the L2 cache while the product is computed: a line of 128 bytes a strip and row.
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

  static Params params(const at::Tensor& dy_TD, const ScoredRows& rows, const at::Tensor& z_R2F,
                       const at::Tensor& down_EDF, const SwigluGrads& out, const at::Tensor& dscore_RN) {
    const auto E = static_cast<int32_t>(down_EDF.size(0)), D = static_cast<int32_t>(down_EDF.size(1));
    const auto F = static_cast<int32_t>(down_EDF.size(2));
    return {.tiles = expert_tiles(rows.order, 0, F / kTileN),
            .K = D,
            .a = gathered_rows(dy_TD, rows.order),
            .b = B(bf16(down_EDF), {F, D, E}, {cute::_1{}, F, int64_t{D} * F}, 0),
            .epilogue = {.scores_R = rows.scores_R.const_data_ptr<float>(),
                         .z_R2F = z_R2F.const_data_ptr<Element>(),
                         .dz_R2F = out.dz_R2F.data_ptr<Element>(),
                         .h_RF = out.h_RF.data_ptr<Element>(),
                         .dscore_RN = dscore_RN.data_ptr<float>(),
                         .F = F}};
  }
};

}  // namespace olmoe::kernels::hopper
