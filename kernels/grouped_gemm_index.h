// Which rows of which expert a block multiplies. Shapes: R rows sorted by expert, E experts; offsets_E as in
// grouped_gemm.h.
#pragma once
#include <c10/macros/Macros.h>

#include <algorithm>
#include <cstdint>

#include "core/integers.h"

namespace olmoe::kernels {

/// Rows [begin, end) of one expert; expert E, and no rows, past the last tile.
struct RowTile {
  int64_t expert, begin, end;
};
constexpr int64_t kRowsPerTile = 16;

/// Upper bound on the tiles of R rows for any split over experts: the offsets are on the GPU, and reading them would be
/// a host sync.
C10_HOST_DEVICE inline int64_t max_row_tiles(int64_t R, int64_t E) { return R / kRowsPerTile + E; }

/// Tile `tile` of all experts' rows. A tile has rows of one expert only.
C10_HOST_DEVICE inline RowTile row_tile(int64_t tile, const int32_t* offsets_E, int64_t E) {
  int64_t first = 0;
  for (int64_t e = 0; e < E; ++e) {
    const int64_t end = offsets_E[e], tiles = ceil_div(end - first, kRowsPerTile);
    if (tile < tiles) {
      const int64_t begin = first + tile * kRowsPerTile;
      return {e, begin, std::min(begin + kRowsPerTile, end)};
    }
    tile -= tiles;
    first = end;
  }
  return {E, first, first};
}
/// All rows of an expert.
C10_HOST_DEVICE inline RowTile rows_of_expert(int64_t expert, const int32_t* offsets_E) {
  return {expert, expert == 0 ? 0 : offsets_E[expert - 1], offsets_E[expert]};
}

}  // namespace olmoe::kernels
