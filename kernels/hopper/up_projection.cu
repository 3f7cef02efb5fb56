// z = gather(x) w^T of each row's expert, and h = SwiGLU(z) * score, in one kernel. A tile of B is 128 rows of the
// gate's weights and the 128 rows of up's that belong to them, so that a thread has both of an element. Shapes as in
// kernels/experts.h.
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"
#include "kernels/hopper/strip.cuh"

namespace olmoe::kernels::hopper {
namespace {

constexpr int kHalfN = kTileN / 2;

struct UpProjection {
  using A = RowsAlongM;
  static constexpr Along kAlongA = Along::K;
  using Main = Mainloop<kAlongA, Along::K>;
  using B = OperandB<Main, 2>;
  struct Params {
    ExpertTiles tiles;
    int32_t K;
    GatheredRows a;
    B b;
    const float* scores_R;
    Element *z_R2F, *h_RF;
    int64_t F;
  };
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * kHalfN, 0, at.expert}; }
  static __device__ void prefetch(const Params&, const TileCursor&, int) {}

  template <class Values>
  static __device__ void finish(const Params& p, const TileCursor& at, const Values& values, int warp,
                                Element* memory) {
    const WarpRows rows(at, warp);
    Strip strip(memory);
    const RowScores scores(p.scores_R, rows, strip.lane());
#pragma unroll
    for (int part = 0; part < kHalfN / kStripColumns; ++part) {
      StripValues gate, up, h;
#pragma unroll
      for (int i = 0; i < kStripValues; i += 2) {
        const int of_gate = value_right_of(i, part * kStripColumns), of_up = value_right_of(of_gate, kHalfN);
        const float score = scores.of_half[i / 2 % 2];
        const auto g = gate[i / 2] = rounded<Element>(values(of_gate), values(of_gate + 1));
        const auto u = up[i / 2] = rounded<Element>(values(of_up), values(of_up + 1));
        h[i / 2] = rounded<Element>(swiglu_value(g.first, u.first, score), swiglu_value(g.second, u.second, score));
      }
      const int64_t column = int64_t{at.n} * kHalfN + part * kStripColumns;
      Element* const z = p.z_R2F + rows.first * 2 * p.F + column;
      strip.write(gate, z, 2 * p.F, rows.count);
      strip.write(up, z + p.F, 2 * p.F, rows.count);
      strip.write(h, p.h_RF + rows.first * p.F + column, p.F, rows.count);
    }
  }
};

}  // namespace

void up_projection(const at::Tensor& x_TD, const ScoredRows& rows, const at::Tensor& gate_up_E2FD, ExpertsUp& out) {
  const auto E = static_cast<int32_t>(gate_up_E2FD.size(0)), D = static_cast<int32_t>(gate_up_E2FD.size(2));
  const auto F = static_cast<int32_t>(out.h_RF.size(1));
  const UpProjection::Params params{
      .tiles = expert_tiles(rows.order, 0, F / kHalfN),
      .K = D,
      .a = gathered_rows(x_TD, rows.order),
      .b = UpProjection::B(bf16(gate_up_E2FD), {2 * F, D, E}, {D, cute::_1{}, int64_t{2} * F * D}, F),
      .scores_R = rows.scores_R.const_data_ptr<float>(),
      .z_R2F = out.z_R2F.data_ptr<Element>(),
      .h_RF = out.h_RF.data_ptr<Element>(),
      .F = F};
  launch<UpProjection>(params, out.h_RF.size(0), x_TD);
}

}  // namespace olmoe::kernels::hopper
