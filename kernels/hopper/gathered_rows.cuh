// What the loading threads of a block read of A: rows that an index names, or sorted ones, through cp.async, 16 bytes a
// thread and pass, into a stage of shared memory. Shapes: R rows sorted by expert; M and K of a product as in
// kernels/expert_tiles.h.
#pragma once
#include <cutlass/arch/memory_sm80.h>
#include <cutlass/fast_math.h>

#include "kernels/expert_tiles.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::hopper {

/// Rows of x in the order of the experts: row r is x[slot_R[r] / top_k].
struct GatheredRows {
  const Element* x;
  int32_t stride;
  const int32_t* slot_R;
  cutlass::FastDivmod top_k;

  __device__ int32_t slot(int32_t r) const { return slot_R[r]; }
  __device__ const Element* row_of(int32_t slot) const { return x + int64_t{top_k.div(slot)} * stride; }
};
/// Rows that lie in the order of the experts: row r is x[r].
struct SortedRows {
  const Element* x;
  int32_t stride;

  __device__ int32_t slot(int32_t r) const { return r; }
  __device__ const Element* row_of(int32_t slot) const { return x + int64_t{slot} * stride; }
};
/// Rows of a thread's pieces. All are read at once and none behind a branch, so that their latencies overlap.
using Slots = int32_t[kLoadPasses];
template <int kColumns, class Rows>
__device__ inline void read_slots(const Rows& rows, int32_t first, int32_t end, Slots& slots) {
#pragma unroll
  for (int pass = 0; pass < kLoadPasses; ++pass)
    slots[pass] = rows.slot(row_or_last(first + pass * kRowsPerPass<kColumns>, end));
}

using cutlass::arch::CacheOperation;
using CopyPiece = cutlass::arch::cp_async<16, CacheOperation::Global>;
using CopyPieceOrZeros = cutlass::arch::cp_async_zfill<16, CacheOperation::Global>;

/// A thread's share of the tiles of A whose rows, gathered or sorted, are along M and whose K are their columns. Past
/// the expert's last row it is read again: what is made of it is not written.
template <class Rows>
class RowsAlongM {
 public:
  using Source = Rows;
  static constexpr int kColumns = kTileK;
  static __device__ int32_t k_tiles(int32_t K, const TileCursor&) { return K / kTileK; }

  __device__ RowsAlongM(const Rows& rows, const TileCursor& at, int thread) {
    const LoadedPiece piece = loaded_piece<kColumns>(thread, 0);
    place_ = staged_at<kColumns>(piece.row, piece.column);
    Slots slots;
    read_slots<kColumns>(rows, at.begin + at.m * kTileM + piece.row, at.end, slots);
#pragma unroll
    for (int pass = 0; pass < kLoadPasses; ++pass) from_[pass] = rows.row_of(slots[pass]) + piece.column;
  }
  /// The next tile along K into a stage of shared memory.
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

/// The same where the gathered rows are along K, and M are their columns. Rows past the expert's last are zero, which
/// takes what B has there out of the sum, unless it is not finite.
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
    read_slots<kColumns>(rows_, row_, end_, slots_);
  }
  __device__ void copy_next(Element* stage) {
#pragma unroll
    for (int pass = 0; pass < kLoadPasses; ++pass)
      CopyPieceOrZeros(stage + place_ + pass * kStagedPassStep<kColumns>, rows_.row_of(slots_[pass]) + column_,
                       row_ + pass * kRowsPerPass<kColumns> < end_);
    row_ += kTileK;
    read_slots<kColumns>(rows_, row_, end_, slots_);  // they arrive while this tile is waited for
  }

 private:
  const GatheredRows& rows_;
  int32_t row_, end_, column_;
  int place_;
  Slots slots_;
};

}  // namespace olmoe::kernels::hopper
