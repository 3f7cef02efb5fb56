// dh = gather(dy) w of each row's expert, and from it, without writing it, dz, h and the gradient of each row's score.
// The score's gradient is a sum over F: a block sums its columns, and what the blocks of a row found is added in their
// order. Shapes as in kernels/experts.h.
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"
#include "kernels/hopper/strip.cuh"

namespace olmoe::kernels::hopper {
namespace {

struct DownBackward {
  using A = RowsAlongM;
  static constexpr Along kAlongA = Along::K;
  using Main = Mainloop<kAlongA, Along::MN>;
  using B = OperandB<Main, 1>;
  struct Params {
    ExpertTiles tiles;
    int32_t K;
    GatheredRows a;
    B b;
    const float* scores_R;
    const Element* z_R2F;
    Element *dz_R2F, *h_RF;
    float* dscore_RN;  ///< of each row, by the N tile that summed it
    int64_t F;
  };
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * kTileN, 0, at.expert}; }

  /// What finish() reads, to the L2 cache while the product is computed: a line of 128 bytes a strip and row.
  static __device__ void prefetch(const Params& p, const TileCursor& at, int warp) {
    constexpr int kParts = kTileN / kStripColumns, kLines = kWarpRows * kParts;
    const WarpRows rows(at, warp);
    for (int line = static_cast<int>(threadIdx.x) % cuda::kWarp; line < kLines; line += cuda::kWarp) {
      const int row = line / kParts, column = line % kParts * kStripColumns;
      const Element* const gate = p.z_R2F + (rows.first + row) * 2 * p.F + int64_t{at.n} * kTileN + column;
      if (row < rows.count)
        asm volatile("prefetch.global.L2 [%0]; prefetch.global.L2 [%1];" ::"l"(gate), "l"(gate + p.F));
    }
  }

  template <class Values>
  static __device__ void finish(const Params& p, const TileCursor& at, const Values& values, int warp,
                                Element* memory) {
    const WarpRows rows(at, warp);
    Strip strip(memory);
    const int64_t first_z = rows.first * 2 * p.F + int64_t{at.n} * kTileN,
                  first_h = rows.first * p.F + int64_t{at.n} * kTileN;
    const RowScores scores(p.scores_R, rows, strip.lane());
    float dscores[2] = {0, 0};
#pragma unroll
    for (int part = 0; part < kTileN; part += kStripColumns) {
      const Lines gates = strip.read(p.z_R2F + first_z + part, 2 * p.F, rows.count);
      const Lines ups = strip.read(p.z_R2F + first_z + part + p.F, 2 * p.F, rows.count);
      StripValues gate, up, h;
      strip.to_values(gates, gate);
      strip.to_values(ups, up);
#pragma unroll
      for (int i = 0; i < kStripValues; i += 2) {
        const int half = i / 2 % 2, value = value_right_of(i, part);
        auto &g = gate[i / 2], &u = up[i / 2];
        const auto a = swiglu_element_grads(values(value), g.first, u.first, scores.of_half[half]);
        const auto b = swiglu_element_grads(values(value + 1), g.second, u.second, scores.of_half[half]);
        g = rounded<Element>(a.dgate, b.dgate);
        u = rounded<Element>(a.dup, b.dup);
        h[i / 2] = rounded<Element>(a.h, b.h);
        dscores[half] += a.dscore;
        dscores[half] += b.dscore;
      }
      strip.write(gate, p.dz_R2F + first_z + part, 2 * p.F, rows.count);
      strip.write(up, p.dz_R2F + first_z + part + p.F, 2 * p.F, rows.count);
      strip.write(h, p.h_RF + first_h + part, p.F, rows.count);
    }
    write_dscores(p, at, rows, strip.lane(), dscores);
  }

  /// Four lanes have the columns of a row.
  static __device__ void write_dscores(const Params& p, const TileCursor& at, const WarpRows& rows, int lane,
                                       const float (&dscores)[2]) {
    for (int half = 0; half < 2; ++half) {
      float sum = dscores[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int row = fragment_row(lane, 2 * half);
      if (lane % 4 == 0 && row < rows.count) p.dscore_RN[(rows.first + row) * p.tiles.tiles_n + at.n] = sum;
    }
  }
};

}  // namespace

void down_projection_backward(const at::Tensor& dy_TD, const ScoredRows& rows, const at::Tensor& z_R2F,
                              const at::Tensor& down_EDF, SwigluGrads& out) {
  const auto E = static_cast<int32_t>(down_EDF.size(0)), D = static_cast<int32_t>(down_EDF.size(1));
  const auto F = static_cast<int32_t>(down_EDF.size(2));
  at::Tensor dscore_RN = at::empty({z_R2F.size(0), F / kTileN}, rows.scores_R.options());
  const DownBackward::Params params{.tiles = expert_tiles(rows.order, 0, F / kTileN),
                                    .K = D,
                                    .a = gathered_rows(dy_TD, rows.order),
                                    .b = DownBackward::B(bf16(down_EDF), {F, D, E}, {cute::_1{}, F, int64_t{D} * F}, 0),
                                    .scores_R = rows.scores_R.const_data_ptr<float>(),
                                    .z_R2F = z_R2F.const_data_ptr<Element>(),
                                    .dz_R2F = out.dz_R2F.data_ptr<Element>(),
                                    .h_RF = out.h_RF.data_ptr<Element>(),
                                    .dscore_RN = dscore_RN.data_ptr<float>(),
                                    .F = F};
  launch<DownBackward>(params, z_R2F.size(0), dy_TD);
  at::sum_out(out.dscore_R, dscore_RN, /*dim=*/1);
}

}  // namespace olmoe::kernels::hopper
