// Deterministic sums by id. Rows are sorted by id, so that those of one id are a run; runs are summed in chunks of
// kChunkRows sorted rows. A run within one chunk is added to the gradient of its id directly. A run that spans several
// chunks leaves a partial sum in each; the chunk in which it begins, its owner, adds these up in order.
#pragma once
#include <cstdint>

#include "core/integers.h"
#include "kernels/rows/elements.h"

namespace olmoe::kernels {

/// Ids in ascending order, in chunks.
struct SortedIds {
  static constexpr int64_t kChunkRows = 16;

  const int32_t* ids;
  int64_t rows;

  int64_t chunks() const { return ceil_div(rows, kChunkRows); }
  OLMOE_ELEMENT int64_t chunk_begin(int64_t chunk) const { return chunk * kChunkRows; }
  OLMOE_ELEMENT int64_t chunk_end(int64_t chunk) const {
    const int64_t end = (chunk + 1) * kChunkRows;
    return end < rows ? end : rows;
  }
  /// Whether the run of sorted row `row` begins before its chunk.
  OLMOE_ELEMENT bool began_before(int64_t chunk, int64_t row) const {
    const int64_t begin = chunk_begin(chunk);
    return begin > 0 && ids[begin - 1] == ids[row];
  }
  /// Whether the run of sorted row `row` continues after its chunk.
  OLMOE_ELEMENT bool continues(int64_t chunk, int64_t row) const {
    const int64_t end = chunk_end(chunk);
    return end < rows && ids[end] == ids[row];
  }
  /// Whether the chunk's last run begins in it and continues after it.
  OLMOE_ELEMENT bool owns_long_run(int64_t chunk) const {
    const int64_t last = chunk_end(chunk) - 1;
    return continues(chunk, last) && !began_before(chunk, last);
  }
  /// The chunk in which the run of sorted row `row` ends.
  OLMOE_ELEMENT int64_t last_chunk(int64_t row) const {
    int64_t low = row, high = rows - 1;  // the last row of the run is in [low, high]
    while (low < high) {
      const int64_t middle = high - (high - low) / 2;
      if (ids[middle] == ids[row])
        low = middle;
      else
        high = middle - 1;
    }
    return low / kChunkRows;
  }
};

/// Bits of the largest of `count` ids, at least one: the bits that a radix sort must compare.
inline int id_bits(int64_t count) {
  int bits = 1;
  while ((count - 1) >> bits > 0) ++bits;
  return bits;
}

}  // namespace olmoe::kernels
