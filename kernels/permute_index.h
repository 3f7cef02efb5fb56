// How the assignments are cut for sorting, and where in its chunk's order one stands. Shapes: R assignments.
#pragma once
#include <c10/macros/Macros.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/integers.h"

namespace olmoe::kernels {

/// Assignments that a warp reads at one time: several of each lane's, so that their loads overlap.
constexpr int kLanes = 32, kStepsPerTile = 4, kTileRows = kLanes * kStepsPerTile;
/// A warp scans the counts of all chunks, with so many in the registers of each lane.
constexpr int kChunksPerLane = 32, kMaxChunks = kLanes * kChunksPerLane;

/// Runs of `rows` consecutive assignments, the last one maybe shorter; a warp sorts one. There is always at least one.
struct Chunks {
  int64_t rows, count;
};
/// Depends on R alone. The rows of a chunk are whole tiles.
inline Chunks chunks_of(int64_t R) {
  constexpr int64_t kMinRows = 2 * kTileRows;
  const int64_t least = std::max<int64_t>(kMinRows, ceil_div(R, kMaxChunks));
  const int64_t rows = round_up(least, kTileRows);
  return {rows, std::max<int64_t>(1, ceil_div(R, rows))};
}
/// How many of the lanes in `peers` come before `lane`.
C10_HOST_DEVICE inline int rank_among(uint32_t peers, int lane) { return std::popcount(peers & ((1u << lane) - 1)); }

}  // namespace olmoe::kernels
