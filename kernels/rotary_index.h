// Which columns of a row are rotated together.
#pragma once
#include <cstdint>

#include "kernels/rows/elements.h"

namespace olmoe::kernels {

/// First column of the `item`-th run of `width` pairs, in heads of 2 * half columns. Its partners begin half a head
/// further.
OLMOE_ELEMENT int64_t pair_column(int64_t item, int64_t half, int64_t width) {
  // In 32 bits: a row is far shorter than 2^32 columns, and a GPU divides 64 bits ten times slower.
  const auto items_per_head = static_cast<uint32_t>(half / width), i = static_cast<uint32_t>(item);
  const uint32_t head = i / items_per_head, of_head = i - head * items_per_head;
  return int64_t{head} * 2 * half + int64_t{of_head} * width;
}

/// Where the angles of a column and of its partner are in a table's row.
OLMOE_ELEMENT int64_t angle_column(int64_t column, int64_t half) {
  return static_cast<uint32_t>(column) % static_cast<uint32_t>(half);
}

}  // namespace olmoe::kernels
