// Transposes a warp's 16 rows of a tile between wgmma's fragments and whole lines of memory, 64 columns at a time,
// through the warp's strip of shared memory. Indices: kernels/expert_tiles.h.
#pragma once
#include "kernels/expert_tiles.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::hopper {

constexpr int kStripValues = kWarpRows * kStripColumns / cuda::kWarp;

/// A warp's rows of a tile: the first one, and the number of rows of the expert from there on, which may be more than
/// 16, zero or negative: row count - 1 is the expert's last one in any case.
struct WarpRows {
  int64_t first;
  int32_t count;

  __device__ WarpRows(const TileCursor& at, int warp)
      : first(int64_t{at.begin} + at.m * kTileM + warp * kWarpRows),
        count(at.end - at.begin - at.m * kTileM - warp * kWarpRows) {}
};

/// Scores of the two rows of a lane's values; zero past the expert's last row.
struct RowScores {
  float of_half[2];

  __device__ RowScores(const float* scores_R, const WarpRows& rows, int lane) {
    for (int half = 0; half < 2; ++half) {
      const int row = fragment_row(lane, 2 * half);
      of_half[half] = row < rows.count ? scores_R[rows.first + row] : 0;
    }
  }
};

/// A lane's values of a strip: i and i + 1 (i even) are neighbours in a row.
using StripValues = RoundedPair<Element>[kStripValues / 2];

/// A lane's part of 16 rows of 64 columns in memory: 16 bytes of each of 4 rows.
struct Lines {
  cuda::Vector<Element, kStripVector> pieces[kStripPasses];
};

class Strip {
 public:
  __device__ explicit Strip(Element* memory) : memory_(memory), lane_(static_cast<int>(threadIdx.x) % cuda::kWarp) {}

  /// Reads rows of a matrix with row stride `stride`, beginning at `from`. Past the last of `rows` that one is read
  /// again: branches would serialise the reads.
  __device__ Lines read(const Element* from, int64_t stride, int32_t rows) const {
    Lines lines;
#pragma unroll
    for (int pass = 0; pass < kStripPasses; ++pass) {
      const int row = row_or_last(strip_row(lane_, pass), rows);
      lines.pieces[pass] = cuda::load_vector<kStripVector>(from + row * stride + strip_column(lane_));
    }
    return lines;
  }
  /// Converts lines to the lane's values.
  __device__ void to_values(const Lines& lines, StripValues& values) {
#pragma unroll
    for (int pass = 0; pass < kStripPasses; ++pass)
      memory_.store(strip_at(strip_row(lane_, pass), strip_column(lane_)), lines.pieces[pass]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kStripValues; i += 2)
      values[i / 2] = std::bit_cast<RoundedPair<Element>>(memory_.load<2>(pair_at(i)));
    __syncwarp();
  }
  /// Writes the lane's values to the first `rows` rows of a matrix.
  __device__ void write(const StripValues& values, Element* to, int64_t stride, int32_t rows) {
#pragma unroll
    for (int i = 0; i < kStripValues; i += 2) memory_.store(pair_at(i), std::bit_cast<Pair>(values[i / 2]));
    __syncwarp();
#pragma unroll
    for (int pass = 0; pass < kStripPasses; ++pass) {
      const int row = strip_row(lane_, pass), column = strip_column(lane_);
      const auto piece = memory_.load<kStripVector>(strip_at(row, column));
      if (row < rows) cuda::store_vector(to + row * stride + column, piece);
    }
    __syncwarp();
  }
  __device__ int lane() const { return lane_; }

 private:
  using Pair = cuda::Vector<Element, 2>;
  __device__ int pair_at(int i) const { return strip_at(fragment_row(lane_, i), fragment_column(lane_, i)); }

  cuda::SharedArray<Element> memory_;
  int lane_;
};

}  // namespace olmoe::kernels::hopper
