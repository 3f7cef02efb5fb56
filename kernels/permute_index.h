// How assignments are divided into chunks for the sort on a GPU, and ranked within a chunk. Shapes: A assignments.
#pragma once
#include <c10/macros/Macros.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/integers.h"

namespace olmoe::kernels {

/// Assignments that a warp reads at a time: several for each lane, so that loads overlap.
constexpr int kLanes = 32, kStepsPerTile = 4, kTileRows = kLanes * kStepsPerTile;
/// A warp scans the counts of all chunks, kChunksPerLane in the registers of each lane.
constexpr int kChunksPerLane = 32, kMaxChunks = kLanes * kChunksPerLane;

/// `count` runs of `rows` consecutive assignments, the last one possibly shorter; a warp sorts one. At least one.
struct Chunks {
  int64_t rows, count;
};
/// Depends on A alone. The rows of a chunk are whole tiles.
inline Chunks chunks_of(int64_t A) {
  constexpr int64_t kMinRows = 2 * kTileRows;
  const int64_t least = std::max<int64_t>(kMinRows, ceil_div(A, kMaxChunks));
  const int64_t rows = round_up(least, kTileRows);
  return {rows, std::max<int64_t>(1, ceil_div(A, rows))};
}
/// The number of lanes in the mask `peers` that are lower than `lane`.
C10_HOST_DEVICE inline int rank_among(uint32_t peers, int lane) { return std::popcount(peers & ((1u << lane) - 1)); }

}  // namespace olmoe::kernels
