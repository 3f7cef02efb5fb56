// Epilogues of the fused GEMMs. A warp has 16 rows of a tile; `values(i)` is value i of the lane in wgmma's fragment,
// and `memory` the warp's strip. Shapes as in kernels/experts.h, indices as in kernels/expert_tiles.h.
#pragma once
#include "kernels/grouped_gemm.h"
#include "kernels/hopper/strip.cuh"

namespace olmoe::kernels::hopper {

/// Writes the result of the GEMM in bf16.
struct RowsEpilogue {
  Element* y_RO;
  int64_t O;

  template <class Values>
  __device__ void finish(const TileCursor& at, const Values& values, int warp, Element* memory) const {
    const WarpRows rows(at, warp);
    Strip strip(memory);
#pragma unroll
    for (int part = 0; part < kTileN; part += kStripColumns) {
      StripValues y;
#pragma unroll
      for (int i = 0; i < kStripValues; i += 2) {
        const int value = value_right_of(i, part);
        y[i / 2] = rounded<Element>(values(value), values(value + 1));
      }
      strip.write(y, y_RO + rows.first * O + int64_t{at.n} * kTileN + part, O, rows.count);
    }
  }
};

/// Writes z and h = SwiGLU(z) * score. The first half of a tile's columns are gate, the second half the same columns of
/// up.
struct UpEpilogue {
  static constexpr int kColumns = kTileN / 2;
  const float* scores_R;
  Element *z_R2F, *h_RF;
  int64_t F;

  template <class Values>
  __device__ void finish(const TileCursor& at, const Values& values, int warp, Element* memory) const {
    const WarpRows rows(at, warp);
    Strip strip(memory);
    const RowScores scores(scores_R, rows, strip.lane());
#pragma unroll
    for (int part = 0; part < kColumns; part += kStripColumns) {
      StripValues gate, up, h;
#pragma unroll
      for (int i = 0; i < kStripValues; i += 2) {
        const int of_gate = value_right_of(i, part), of_up = value_right_of(of_gate, kColumns);
        const float score = scores.of_half[i / 2 % 2];
        const auto g = gate[i / 2] = rounded<Element>(values(of_gate), values(of_gate + 1));
        const auto u = up[i / 2] = rounded<Element>(values(of_up), values(of_up + 1));
        h[i / 2] = rounded<Element>(swiglu_value(g.first, u.first, score), swiglu_value(g.second, u.second, score));
      }
      const int64_t column = int64_t{at.n} * kColumns + part;
      Element* const z = z_R2F + rows.first * 2 * F + column;
      strip.write(gate, z, 2 * F, rows.count);
      strip.write(up, z + F, 2 * F, rows.count);
      strip.write(h, h_RF + rows.first * F + column, F, rows.count);
    }
  }
};

/// Backward of SwiGLU from dh, which is not stored: writes dz, h, and the gradient of each row's score, summed over the
/// tile's columns.
struct DownBackwardEpilogue {
  const float* scores_R;
  const Element* z_R2F;
  Element *dz_R2F, *h_RF;
  float* partial_dscores;  ///< [R, F / kTileN]: of each row, by tile along N
  int64_t F;

  template <class Values>
  __device__ void finish(const TileCursor& at, const Values& values, int warp, Element* memory) const {
    const WarpRows rows(at, warp);
    Strip strip(memory);
    const int64_t first_z = rows.first * 2 * F + int64_t{at.n} * kTileN,
                  first_h = rows.first * F + int64_t{at.n} * kTileN;
    const RowScores scores(scores_R, rows, strip.lane());
    float dscores[2] = {0, 0};
#pragma unroll
    for (int part = 0; part < kTileN; part += kStripColumns) {
      const Lines gates = strip.read(z_R2F + first_z + part, 2 * F, rows.count);
      const Lines ups = strip.read(z_R2F + first_z + part + F, 2 * F, rows.count);
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
      strip.write(gate, dz_R2F + first_z + part, 2 * F, rows.count);
      strip.write(up, dz_R2F + first_z + part + F, 2 * F, rows.count);
      strip.write(h, h_RF + first_h + part, F, rows.count);
    }
    write_dscores(at, rows, strip.lane(), dscores);
  }

  /// The columns of a row are spread over four lanes.
  __device__ void write_dscores(const TileCursor& at, const WarpRows& rows, int lane, const float (&dscores)[2]) const {
    for (int half = 0; half < 2; ++half) {
      float sum = dscores[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int row = fragment_row(lane, 2 * half);
      if (lane % 4 == 0 && row < rows.count) partial_dscores[(rows.first + row) * (F / kTileN) + at.n] = sum;
    }
  }
};

/// Adds to a weight's gradient, or stores it, straight from registers. If transposed, neighbours in memory belong to
/// different lanes.
template <bool kTransposed>
struct WeightGradEpilogue {
  float* dw;  ///< [E, D, O], or [E, O, D]: transposed
  GradWrite write;
  int64_t D, O;

  template <class Values>
  __device__ void finish(const TileCursor& at, const Values& values, int warp, Element*) const {
    const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
    const int64_t m = int64_t{at.m} * kTileM + warp * kWarpRows, n = int64_t{at.n} * kTileN;
    const int64_t step_m = kTransposed ? 1 : O, step_n = kTransposed ? D : 1;
    float* const first = dw + at.expert * D * O + m * step_m + n * step_n;
    constexpr int kRun = kTransposed ? 1 : 2;  // values of a lane that are contiguous in memory
    const auto for_runs = [&](const auto& put) {
#pragma unroll
      for (int i = 0; i < kValuesPerThread; i += kRun) {
        cuda::Vector<float, kRun> run;
#pragma unroll
        for (int j = 0; j < kRun; ++j) run.values[j] = values(i + j);
        put(first + fragment_row(lane, i) * step_m + fragment_column(lane, i) * step_n, run);
      }
    };
    // Each element belongs to one thread of the launch, so that the atomic adds are deterministic.
    if (write == GradWrite::store)
      for_runs([](float* to, const auto& run) { cuda::store_vector(to, run); });
    else
      for_runs([](float* to, const auto& run) { cuda::atomic_add_vector(to, run); });
  }
};

}  // namespace olmoe::kernels::hopper
