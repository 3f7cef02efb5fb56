// How sums over rows are divided into chunks: by the number of rows alone, so that every GPU adds in the same order.
#pragma once
#include <cstdint>

#include "core/integers.h"
#include "kernels/rows/elements.h"

namespace olmoe::kernels {

struct Range {
  int64_t begin, end;
};

/// Rows in chunks of equal size, the last one possibly smaller; one thread block sums a chunk.
struct RowChunks {
  /// Four blocks for each of an H100's 132 multiprocessors, which run concurrently.
  static constexpr int64_t kMaxChunks = 528;
  static constexpr int64_t kMinRows = 8;

  int64_t rows;

  OLMOE_ELEMENT int64_t chunk_rows() const {
    const int64_t even = ceil_div(rows, kMaxChunks);
    return even > kMinRows ? even : kMinRows;
  }
  OLMOE_ELEMENT int64_t chunks() const { return ceil_div(rows, chunk_rows()); }
  OLMOE_ELEMENT Range operator[](int64_t chunk) const {
    const int64_t begin = chunk * chunk_rows(), end = begin + chunk_rows();
    return {begin, end < rows ? end : rows};
  }
};

/// Range of `count` items that belongs to `part` of `parts`; ranges are consecutive and may be empty.
OLMOE_ELEMENT Range share_of(int64_t count, int64_t part, int64_t parts) {
  const int64_t size = ceil_div(count, parts);
  const int64_t begin = part * size, end = begin + size;
  return {begin < count ? begin : count, end < count ? end : count};
}

}  // namespace olmoe::kernels
