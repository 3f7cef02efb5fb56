// Planted faults of the fused experts: code that takes a tile for another. Each test of tiles is tried with them too,
// and each of its checks has to notice.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels/expert_tiles.h"

namespace olmoe::kernels::testing {

/// From a tile to the one that it is taken for.
using Mistake = TileCursor (*)(TileCursor);

inline TileCursor no_mistake(TileCursor at) { return at; }
inline TileCursor starts_a_row_late(TileCursor at) { return ++at.begin, at; }
inline TileCursor misses_the_last_row(TileCursor at) { return --at.end, at; }
inline TileCursor takes_the_row_behind(TileCursor at) { return ++at.begin, ++at.end, at; }  // ends past the operand
inline TileCursor takes_the_tile_before(TileCursor at) { return at.m = std::max(at.m - 1, 0), at; }
inline TileCursor takes_the_first_columns(TileCursor at) { return at.n = 0, at; }
inline TileCursor takes_the_expert_before(TileCursor at) { return at.expert = std::max(at.expert - 1, 0), at; }
inline TileCursor takes_the_expert_behind(TileCursor at) { return ++at.expert, at; }  // ends past the operand

/// Rows of each expert, and what is planted.
struct Trial {
  std::vector<int32_t> rows_E;
  Mistake mistake = no_mistake;

  bool right() const { return mistake == no_mistake; }
};

/// Spreads of rows without a mistake, and each of `mistakes`, of which several tiles of an expert show every one.
inline std::vector<Trial> trials(const std::vector<Mistake>& mistakes, const std::vector<int32_t>& near_a_border) {
  std::vector<Trial> all{{{1}}, {{0, 129, 0, 128, 127, 0}}, {near_a_border}, {{0, 300, 3}}};
  for (const Mistake mistake : mistakes) all.push_back({{0, 300, 3}, mistake});
  return all;
}

}  // namespace olmoe::kernels::testing
