#include "kernels/grouped_gemm_index.h"

#include <vector>

#include "support/catch.h"

using namespace olmoe::kernels;

TEST_CASE("row tiles cover each row once, within one expert", "[kernels]") {
  const auto rows_E = GENERATE(values<std::vector<int32_t>>({{1},
                                                             {0, 0, 0},
                                                             {0, 17, 0, 16, 1, 0},
                                                             {15, 15, 15, 15},
                                                             {16, 32, 48},
                                                             {1, 1, 1, 1, 1, 1, 1, 1, 1},
                                                             {1000, 0, 3}}));
  CAPTURE(rows_E);
  const auto E = static_cast<int64_t>(rows_E.size());
  std::vector<int32_t> offsets_E;
  std::vector<int64_t> owner_R;
  for (int64_t e = 0; e < E; ++e) {
    owner_R.insert(owner_R.end(), rows_E[e], e);
    offsets_E.push_back(static_cast<int32_t>(owner_R.size()));
  }
  const auto R = static_cast<int64_t>(owner_R.size());
  std::vector<int64_t> seen_R(R, -1);
  for (int64_t t = 0; t < max_row_tiles(R, E); ++t) {
    const RowTile tile = row_tile(t, offsets_E.data(), E);
    REQUIRE(tile.end - tile.begin <= kRowsPerTile);
    CHECK((tile.expert == E) == (tile.begin == tile.end));
    for (int64_t r = tile.begin; r < tile.end; ++r) {
      REQUIRE(seen_R.at(r) == -1);
      seen_R[r] = tile.expert;
    }
  }
  CHECK(seen_R == owner_R);
  for (int64_t e = 0; e < E; ++e) {
    const RowTile rows = rows_of_expert(e, offsets_E.data());
    CHECK(rows.end - rows.begin == rows_E[e]);
    CHECK(rows.end == offsets_E[e]);
  }
}
