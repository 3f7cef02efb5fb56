// Tiling of the fused experts' grouped GEMMs, and the layout of a thread's values within a tile. Shapes: R rows sorted
// by expert, E experts; offsets_E as in grouped_gemm.h. M, N and K are the dimensions of a GEMM, as BLAS names them.
#pragma once
#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace olmoe::kernels {

namespace hopper {
using Element = c10::BFloat16;  ///< of the operands
}
constexpr int kTileM = 128, kTileN = 256, kTileK = 64;  ///< tile of one block, of a GEMM [M, K] x [K, N]

/// Tiles of all experts, one expert after the other. If M is the rows of an expert (`tiles_m` 0), an expert has
/// ceil(rows / kTileM) * tiles_n tiles. For a weight gradient (M and N are widths) it has tiles_m * tiles_n, or none if
/// it has no rows, unless `empty_too`.
struct ExpertTiles {
  const int32_t* offsets_E;
  int32_t E, tiles_m, tiles_n;
  bool empty_too = false;

  C10_HOST_DEVICE int32_t of_expert(int32_t rows) const {
    if (rows == 0 && !empty_too) return 0;
    return (tiles_m > 0 ? tiles_m : (rows + kTileM - 1) / kTileM) * tiles_n;
  }
};

/// Upper bound on the tiles of R rows for any split over experts: the offsets are on the GPU, and reading them would be
/// a host sync.
C10_HOST_DEVICE inline int64_t max_tiles(const ExpertTiles& tiles, int64_t R) {
  return (tiles.tiles_m > 0 ? int64_t{tiles.E} * tiles.tiles_m : R / kTileM + tiles.E) * tiles.tiles_n;
}

/// Locates tiles in ascending order, in one walk over the experts.
struct TileCursor {
  int32_t expert = -1, begin = 0, end = 0;  ///< rows [begin, end) of `expert`, which is E past the last tile
  int32_t m = 0, n = 0;                     ///< position of the tile within the expert, in tiles
  int32_t first_tile = 0, tiles_here = 0;

  /// Advances to tile `tile`, no lower than the previous one. False past the last tile.
  C10_HOST_DEVICE bool seek(const ExpertTiles& tiles, int32_t tile) {
    while (tile - first_tile >= tiles_here) {
      if (++expert >= tiles.E) return false;
      first_tile += tiles_here;
      begin = end;
      end = tiles.offsets_E[expert];
      tiles_here = tiles.of_expert(end - begin);
    }
    m = (tile - first_tile) / tiles.tiles_n;
    n = (tile - first_tile) % tiles.tiles_n;
    return true;
  }
};

/// Two warp groups of a block multiply; each of their 8 warps has 16 rows of the tile and all of its columns. Value i
/// of lane l is at fragment_row(l, i), fragment_column(l, i) of the warp's rows (PTX: wgmma, register fragment of D).
constexpr int kWarpRows = 16, kValuesPerThread = kWarpRows * kTileN / 32, kValuesPerBlock = 4, kBlockColumns = 8;
C10_HOST_DEVICE constexpr int fragment_row(int lane, int i) { return lane / 4 + i / 2 % 2 * 8; }
C10_HOST_DEVICE constexpr int fragment_column(int lane, int i) {
  return i / kValuesPerBlock * kBlockColumns + lane % 4 * 2 + i % 2;
}
/// Index of the lane's value that is `column` columns, a multiple of kBlockColumns, to the right of its value i.
C10_HOST_DEVICE constexpr int value_right_of(int i, int column) { return i + column / kBlockColumns * kValuesPerBlock; }

/// A warp transposes between fragments and whole lines of memory in a strip of shared memory, 16 rows of 64 columns.
/// The padding avoids bank conflicts, both for pairs (fragments) and for vectors of 8 (lines).
constexpr int kStripColumns = 64, kStripPitch = kStripColumns + 8, kStripVector = 8;
constexpr int kStripElements = kWarpRows * kStripPitch, kStripPasses = kWarpRows * kStripColumns / (32 * kStripVector);
C10_HOST_DEVICE constexpr int strip_at(int row, int column) { return row * kStripPitch + column; }
C10_HOST_DEVICE constexpr int strip_row(int lane, int pass) { return pass * 4 + lane / 8; }
C10_HOST_DEVICE constexpr int strip_column(int lane) { return lane % 8 * kStripVector; }

/// The part of a tile of A that each of the 128 loading threads gathers: 16 bytes in each of 8 passes. kColumns: length
/// of a row, 64 if the gathered rows are along M, 128 if along K.
constexpr int kLoadThreads = 128, kLoadVector = 8, kLoadPasses = kTileM * kTileK / (kLoadThreads * kLoadVector);
struct LoadedPiece {
  int row, column;
};
template <int kColumns>
constexpr int kRowsPerPass = kLoadThreads* kLoadVector / kColumns;
template <int kColumns>
C10_HOST_DEVICE constexpr LoadedPiece loaded_piece(int thread, int pass) {
  constexpr int kPerRow = kColumns / kLoadVector;
  return {thread / kPerRow + pass * kRowsPerPass<kColumns>, thread % kPerRow * kLoadVector};
}
/// min(r, end - 1): a row that can be read, also past the expert's last one.
C10_HOST_DEVICE constexpr int32_t row_or_last(int32_t r, int32_t end) { return r < end ? r : end - 1; }

/// Offset of an element in a stage of shared memory, as wgmma reads it: blocks of 64 columns, one behind the other, in
/// rows of 128 bytes whose 16-byte pieces are permuted by row (128-byte swizzle). A thread's pieces of consecutive
/// passes are kStagedPassStep apart.
constexpr int kStagedColumns = 64, kStagedSwizzle = 8;
template <int kColumns>
C10_HOST_DEVICE constexpr int staged_at(int row, int column) {
  constexpr int kRows = kTileM * kTileK / kColumns;
  const int line = column / kStagedColumns * kRows + row;
  return line * kStagedColumns + (column % kStagedColumns ^ row % kStagedSwizzle * kLoadVector);
}
template <int kColumns>
constexpr int kStagedPassStep = kRowsPerPass<kColumns>* kStagedColumns;

}  // namespace olmoe::kernels
