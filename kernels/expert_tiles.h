// How the fused kernels of the experts cut their products into tiles, and where a thread's values lie in one. Shapes: R
// rows sorted by expert, E experts; offsets_E as in grouped_gemm.h.
#pragma once
#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace olmoe::kernels {

namespace hopper {
using Element = c10::BFloat16;  ///< of what is multiplied
}
constexpr int kTileM = 128, kTileN = 256, kTileK = 64;  ///< of a product [M, N] over K, by one block

/// Tiles of all experts, one expert after the other. Of a product whose M are the rows of an expert (`tiles_m` 0), an
/// expert has as many as its rows fill; of a weight gradient tiles_m * tiles_n, or none if it has no rows, unless
/// `empty_too`.
struct ExpertTiles {
  const int32_t* offsets_E;
  int32_t E, tiles_m, tiles_n;
  bool empty_too = false;

  C10_HOST_DEVICE int32_t of_expert(int32_t rows) const {
    if (rows == 0 && !empty_too) return 0;
    return (tiles_m > 0 ? tiles_m : (rows + kTileM - 1) / kTileM) * tiles_n;
  }
};

/// Most tiles that R rows have, however they are spread: the offsets are on the GPU, and nobody waits for them.
C10_HOST_DEVICE inline int64_t most_tiles(const ExpertTiles& tiles, int64_t R) {
  return (tiles.tiles_m > 0 ? int64_t{tiles.E} * tiles.tiles_m : R / kTileM + tiles.E) * tiles.tiles_n;
}

/// Finds tiles in ascending order; the experts are walked once.
struct TileCursor {
  int32_t expert = -1, begin = 0, end = 0;  ///< of the rows of the expert; it is E past the last tile
  int32_t m = 0, n = 0;                     ///< of the tile among those of the expert
  int32_t first_tile = 0, tiles_here = 0;

  /// Moves on to tile `tile`, no lower than the last. False past the last tile.
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

/// A block has two warp groups that multiply, and each of their 8 warps 16 rows of the tile and all its columns. Value
/// i of lane l is at fragment_row(l, i), fragment_column(l, i) of the warp's part (PTX: wgmma, register fragment of D).
constexpr int kWarpRows = 16, kValuesPerThread = kWarpRows * kTileN / 32, kValuesPerBlock = 4, kBlockColumns = 8;
C10_HOST_DEVICE constexpr int fragment_row(int lane, int i) { return lane / 4 + i / 2 % 2 * 8; }
C10_HOST_DEVICE constexpr int fragment_column(int lane, int i) {
  return i / kValuesPerBlock * kBlockColumns + lane % 4 * 2 + i % 2;
}
/// The value at `column` columns right of value i of the same lane; a multiple of kBlockColumns.
C10_HOST_DEVICE constexpr int value_right_of(int i, int column) { return i + column / kBlockColumns * kValuesPerBlock; }

/// A warp turns its values into whole lines of memory, and back, in a strip of 16 rows of 64 columns in shared memory.
/// The padding keeps its accesses free of bank conflicts: by pairs as above, by 8 as below.
constexpr int kStripColumns = 64, kStripPitch = kStripColumns + 8, kStripVector = 8;
constexpr int kStripElements = kWarpRows * kStripPitch, kStripPasses = kWarpRows * kStripColumns / (32 * kStripVector);
C10_HOST_DEVICE constexpr int strip_at(int row, int column) { return row * kStripPitch + column; }
C10_HOST_DEVICE constexpr int strip_row(int lane, int pass) { return pass * 4 + lane / 8; }
C10_HOST_DEVICE constexpr int strip_column(int lane) { return lane % 8 * kStripVector; }

/// What the 128 threads that load gather of a tile of A, 16 bytes in each of 8 passes: of rows of 64 where the tile has
/// its rows along M, of 128 where along K.
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
/// Row `r` of the rows before `end`, or the last of them in place of one that is not there: it can always be read.
C10_HOST_DEVICE constexpr int32_t row_or_last(int32_t r, int32_t end) { return r < end ? r : end - 1; }

/// Where such a piece lies in a stage of shared memory, as wgmma reads it: 64 columns after the other, in rows of 128
/// bytes whose 16-byte pieces are exchanged by the row (swizzle of 128 bytes). From a pass to the next all of a
/// thread's pieces are kStagedPassStep apart.
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
