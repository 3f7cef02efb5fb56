// Loads of operand A: gathered or sorted rows, by cp.async, 16 bytes per loading thread and pass, into a stage of
// shared memory. Shapes: R rows sorted by expert; M and K of a GEMM as in kernels/expert_tiles.h.
#pragma once
#include <cutlass/arch/memory_sm80.h>
#include <cutlass/fast_math.h>

#include "kernels/expert_tiles.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::hopper {

/// Rows of x gathered in the order of the experts: row r is x[assignment_R[r] / top_k].
struct GatheredRows {
  const Element* x;
  int32_t stride;
  const int32_t* assignment_R;
  cutlass::FastDivmod top_k;

  __device__ int32_t index(int32_t r) const { return assignment_R[r]; }
  __device__ const Element* row_of(int32_t index) const { return x + int64_t{top_k.div(index)} * stride; }
};
/// Rows already in the order of the experts: row r is x[r].
struct SortedRows {
  const Element* x;
  int32_t stride;

  __device__ int32_t index(int32_t r) const { return r; }
  __device__ const Element* row_of(int32_t index) const { return x + int64_t{index} * stride; }
};
/// Indices of the rows of a thread's pieces. All are read together and without branches, so that latencies overlap.
using Indices = int32_t[kLoadPasses];
template <int kColumns, class Rows>
__device__ inline void read_indices(const Rows& rows, int32_t first, int32_t end, Indices& indices) {
#pragma unroll
  for (int pass = 0; pass < kLoadPasses; ++pass)
    indices[pass] = rows.index(row_or_last(first + pass * kRowsPerPass<kColumns>, end));
}

using cutlass::arch::CacheOperation;
using CopyPiece = cutlass::arch::cp_async<16, CacheOperation::Global>;
using CopyPieceOrZeros = cutlass::arch::cp_async_zfill<16, CacheOperation::Global>;

/// A thread's part of a tile of A whose rows, gathered or sorted, are along M and whose columns are along K. Past the
/// expert's last row that row is read again; the results of such rows are not written.
template <class Rows>
class RowsAlongM {
 public:
  using Source = Rows;
  static constexpr int kColumns = kTileK;
  static __device__ int32_t k_tiles(int32_t K, const TileCursor&) { return K / kTileK; }

  __device__ RowsAlongM(const Rows& rows, const TileCursor& at, int thread) {
    const LoadedPiece piece = loaded_piece<kColumns>(thread, 0);
    place_ = staged_at<kColumns>(piece.row, piece.column);
    Indices indices;
    read_indices<kColumns>(rows, at.begin + at.m * kTileM + piece.row, at.end, indices);
#pragma unroll
    for (int pass = 0; pass < kLoadPasses; ++pass) from_[pass] = rows.row_of(indices[pass]) + piece.column;
  }
  /// Copies the next tile along K into a stage of shared memory.
  __device__ void copy_next(Element* stage) {
#pragma unroll
    for (int pass = 0; pass < kLoadPasses; ++pass) {
      CopyPiece(stage + place_ + pass * kStagedPassStep<kColumns>, from_[pass]);
      from_[pass] += kTileK;
    }
  }

 private:
  const Element* from_[kLoadPasses];
  int place_;
};

/// The same with the gathered rows along K and their columns along M. Rows past the expert's last one are zero, which
/// removes the rows of B there from the sum, unless these are not finite.
class RowsAlongK {
 public:
  using Source = GatheredRows;
  static constexpr int kColumns = kTileM;
  static __device__ int32_t k_tiles(int32_t, const TileCursor& at) { return (at.end - at.begin + kTileK - 1) / kTileK; }

  __device__ RowsAlongK(const GatheredRows& rows, const TileCursor& at, int thread) : rows_(rows), end_(at.end) {
    const LoadedPiece piece = loaded_piece<kColumns>(thread, 0);
    place_ = staged_at<kColumns>(piece.row, piece.column);
    column_ = at.m * kTileM + piece.column;
    row_ = at.begin + piece.row;
    read_indices<kColumns>(rows_, row_, end_, indices_);
  }
  __device__ void copy_next(Element* stage) {
#pragma unroll
    for (int pass = 0; pass < kLoadPasses; ++pass)
      CopyPieceOrZeros(stage + place_ + pass * kStagedPassStep<kColumns>, rows_.row_of(indices_[pass]) + column_,
                       row_ + pass * kRowsPerPass<kColumns> < end_);
    row_ += kTileK;
    read_indices<kColumns>(rows_, row_, end_, indices_);  // latency hidden by the wait for this tile
  }

 private:
  const GatheredRows& rows_;
  int32_t row_, end_, column_;
  int place_;
  Indices indices_;
};

}  // namespace olmoe::kernels::hopper
