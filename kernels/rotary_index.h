// Which columns of a row are rotated together.
#pragma once
#include <cstdint>

#include "kernels/rows/elements.h"

namespace olmoe::kernels {

/// First column of the `item`-th run of `width` pairs, in heads of 2 * half columns. Their partners begin at that
/// column + half.
OLMOE_ELEMENT int64_t pair_column(int64_t item, int64_t half, int64_t width) {
  // In 32 bits: a row is far shorter than 2^32 columns, and 64-bit division is ten times slower on a GPU.
  const auto items_per_head = static_cast<uint32_t>(half / width), i = static_cast<uint32_t>(item);
  const uint32_t head = i / items_per_head, of_head = i - head * items_per_head;
  return int64_t{head} * 2 * half + int64_t{of_head} * width;
}

/// Column of a row of the rotary table that has the angle of `column` and of its partner.
OLMOE_ELEMENT int64_t angle_column(int64_t column, int64_t half) {
  return static_cast<uint32_t>(column) % static_cast<uint32_t>(half);
}

}  // namespace olmoe::kernels
