// z = gather(x) w^T of each row's expert, and h = SwiGLU(z) * score, in one kernel. A tile of B is 128 rows of gate's
// weights and the same 128 rows of up's, so that a thread has gate and up of an element. Shapes as in
// kernels/experts.h.
#pragma once
#include "kernels/hopper/epilogues.cuh"
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"

namespace olmoe::kernels::hopper {

struct UpProjection : ExpertGemm<RowsAlongM<GatheredRows>, Along::K, Along::K, UpEpilogue, 2> {
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * UpEpilogue::kColumns, 0, at.expert}; }

  static Params params(const at::Tensor& x_ND, const ScoredRows& rows, const at::Tensor& gate_up_E2FD, ExpertsUp& out) {
    const auto E = static_cast<int32_t>(gate_up_E2FD.size(0)), D = static_cast<int32_t>(gate_up_E2FD.size(2));
    const auto F = static_cast<int32_t>(out.h_RF.size(1));
    return {.tiles = expert_tiles(rows.permutation, 0, F / UpEpilogue::kColumns),
            .K = D,
            .a = gathered_rows(x_ND, rows.permutation),
            .b = B(bf16(gate_up_E2FD), {2 * F, D, E}, {D, cute::_1{}, int64_t{2} * F * D}, F),
            .epilogue = {.scores_R = rows.scores_R.const_data_ptr<float>(),
                         .z_R2F = out.z_R2F.data_ptr<Element>(),
                         .h_RF = out.h_RF.data_ptr<Element>(),
                         .F = F}};
  }
};

}  // namespace olmoe::kernels::hopper
