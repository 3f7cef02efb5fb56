#include "kernels/expert_tiles.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

#include "support/catch.h"

using namespace olmoe::kernels;

namespace {

std::vector<int32_t> offsets_of(const std::vector<int32_t>& rows_E) {
  std::vector<int32_t> offsets_E;
  for (int32_t sum = 0; const int32_t rows : rows_E) offsets_E.push_back(sum += rows);
  return offsets_E;
}

/// Tiles found by `blocks` blocks, each with its own cursor, as in the kernel.
std::vector<TileCursor> found(const ExpertTiles& tiles, int32_t blocks) {
  std::vector<TileCursor> out;
  for (int32_t block = 0; block < blocks; ++block) {
    TileCursor at;
    for (int32_t tile = block; at.seek(tiles, tile); tile += blocks) out.push_back(at);
    CHECK(at.expert == tiles.E);
  }
  return out;
}

/// Accesses of 32 lanes to shared memory, `lanes` at a time as `elements` of 2 bytes: true if no bank is asked twice.
template <typename Place>
bool free_of_conflicts(int lanes, int elements, const Place& place) {
  for (int first = 0; first < 32; first += lanes) {
    std::set<int> banks;
    for (int lane = first; lane < first + lanes; ++lane)
      for (int word = 0; word < elements / 2; ++word) banks.insert((place(lane) / 2 + word) % 32);
    if (banks.size() != static_cast<size_t>(lanes * elements / 2)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("tiles of the fused kernels cover each row and column once, for any number of blocks", "[kernels]") {
  const auto rows_E = GENERATE(values<std::vector<int32_t>>(
      {{0, 0, 0}, {1}, {0, 129, 0, 128, 127, 0}, {256, 256}, {1, 1, 1, 1}, {1000, 0, 3}, {0, 5000}}));
  const int32_t tiles_n = GENERATE(1, 3), blocks = GENERATE(1, 7, 132);
  CAPTURE(rows_E, tiles_n, blocks);
  const auto offsets_E = offsets_of(rows_E);
  const auto E = static_cast<int32_t>(rows_E.size());
  const ExpertTiles tiles{offsets_E.data(), E, 0, tiles_n};
  std::set<std::tuple<int32_t, int32_t, int32_t>> seen;
  std::vector<int32_t> rows_seen_E(rows_E.size(), 0);
  const auto all = found(tiles, blocks);
  for (const TileCursor& at : all) {
    REQUIRE(at.end == offsets_E[at.expert]);
    REQUIRE(at.end - at.begin == rows_E[at.expert]);
    REQUIRE((at.n >= 0 && at.n < tiles_n && at.m >= 0));
    const int32_t rows = std::min(kTileM, at.end - at.begin - at.m * kTileM);
    REQUIRE(rows > 0);
    if (at.n == 0) rows_seen_E[at.expert] += rows;
    CHECK(seen.emplace(at.expert, at.m, at.n).second);
  }
  CHECK(rows_seen_E == rows_E);
  CHECK(static_cast<int64_t>(all.size()) <= max_tiles(tiles, offsets_E.back()));
}

TEST_CASE("an expert without rows has no weight-gradient tiles, or all with empty_too", "[kernels]") {
  const auto rows_E = GENERATE(values<std::vector<int32_t>>({{0}, {3, 0, 1000, 0, 64}, {0, 0, 1}}));
  const int32_t blocks = GENERATE(1, 5, 132);
  const auto offsets_E = offsets_of(rows_E);
  const bool empty_too = GENERATE(false, true);
  const ExpertTiles tiles{offsets_E.data(), static_cast<int32_t>(rows_E.size()), 4, 2, empty_too};
  std::vector<int32_t> tiles_E(rows_E.size(), 0);
  std::set<std::tuple<int32_t, int32_t, int32_t>> seen;
  for (const TileCursor& at : found(tiles, blocks)) {
    REQUIRE((at.m < 4 && at.n < 2));
    CHECK(seen.emplace(at.expert, at.m, at.n).second);
    ++tiles_E[at.expert];
  }
  for (size_t e = 0; e < rows_E.size(); ++e) CHECK(tiles_E[e] == (rows_E[e] > 0 || empty_too ? 8 : 0));
}

TEST_CASE("a warp's fragment covers its 16 rows and all columns, in pairs", "[kernels]") {
  std::set<std::pair<int, int>> seen;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < kValuesPerThread; ++i) {
      const int row = fragment_row(lane, i), column = fragment_column(lane, i);
      REQUIRE((row >= 0 && row < kWarpRows && column >= 0 && column < kTileN));
      CHECK(seen.emplace(row, column).second);
      if (i % 2 == 1) CHECK((row == fragment_row(lane, i - 1) && column == fragment_column(lane, i - 1) + 1));
      if (column + 128 >= kTileN) continue;
      const int right = value_right_of(i, 128);  // up's, of a gate's value
      CHECK((fragment_row(lane, right) == row && fragment_column(lane, right) == column + 128));
    }
  }
}

TEST_CASE("a strip has no bank conflicts, for pairs and for lines", "[kernels]") {
  std::vector<int> writes(kStripElements, 0), reads(kStripElements, 0);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < kWarpRows * kStripColumns / 32; ++i)
      ++writes[strip_at(fragment_row(lane, i), fragment_column(lane, i))];
    for (int pass = 0; pass < kStripPasses; ++pass)
      for (int j = 0; j < kStripVector; ++j) ++reads[strip_at(strip_row(lane, pass), strip_column(lane) + j)];
  }
  CHECK(writes == reads);
  CHECK(std::count(reads.begin(), reads.end(), 1) == kWarpRows * kStripColumns);
  for (int i = 0; i < kWarpRows * kStripColumns / 32; i += 2)
    CHECK(
        free_of_conflicts(32, 2, [&](int lane) { return strip_at(fragment_row(lane, i), fragment_column(lane, i)); }));
  for (int pass = 0; pass < kStripPasses; ++pass)
    CHECK(free_of_conflicts(8, 8, [&](int lane) { return strip_at(strip_row(lane, pass), strip_column(lane)); }));
  CHECK(kStripPitch * 2 % 16 == 0);
}

TEMPLATE_TEST_CASE_SIG("the loading threads copy each 16 bytes of a tile of A once", "[kernels]",
                       ((int kColumns), kColumns), kTileK, kTileM) {
  std::set<std::pair<int, int>> seen;
  for (int thread = 0; thread < kLoadThreads; ++thread) {
    for (int pass = 0; pass < kLoadPasses; ++pass) {
      const LoadedPiece piece = loaded_piece<kColumns>(thread, pass);
      REQUIRE((piece.row >= 0 && piece.row < kTileM * kTileK / kColumns));
      REQUIRE((piece.column >= 0 && piece.column < kColumns && piece.column % kLoadVector == 0));
      CHECK(seen.emplace(piece.row, piece.column).second);
    }
  }
  CHECK(seen.size() == size_t{kTileM * kTileK / kLoadVector});
}

TEMPLATE_TEST_CASE_SIG("a stage holds each element of a tile of A once, with a fixed step between a thread's passes",
                       "[kernels]", ((int kColumns), kColumns), kTileK, kTileM) {
  constexpr int kRows = kTileM * kTileK / kColumns;
  std::vector<int> held(kTileM * kTileK, 0);
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      // Lines of 128 bytes, of 64 columns each; the hardware exchanges bits 4 to 6 of an address by bits 7 to 9.
      const int plain = (column / 64 * kRows + row) * 128 + column % 64 * 2;
      REQUIRE(2 * staged_at<kColumns>(row, column) == (plain ^ (plain >> 7 & 7) << 4));
      ++held[staged_at<kColumns>(row, column)];
    }
  }
  CHECK(std::count(held.begin(), held.end(), 1) == kTileM * kTileK);
  for (int thread = 0; thread < kLoadThreads; ++thread) {
    const LoadedPiece first = loaded_piece<kColumns>(thread, 0);
    for (int pass = 0; pass < kLoadPasses; ++pass) {
      const LoadedPiece piece = loaded_piece<kColumns>(thread, pass);
      CHECK((piece.row == first.row + pass * kRowsPerPass<kColumns> && piece.column == first.column));
      CHECK(staged_at<kColumns>(piece.row, piece.column) ==
            staged_at<kColumns>(first.row, first.column) + pass * kStagedPassStep<kColumns>);
    }
  }
}

TEST_CASE("row_or_last is the last row past the end", "[kernels]") {
  CHECK(row_or_last(3, 5) == 3);
  CHECK(row_or_last(4, 5) == 4);
  CHECK(row_or_last(5, 5) == 4);
  CHECK(row_or_last(200, 5) == 4);
}
