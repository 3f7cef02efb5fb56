#include "kernels/rows/row_sums_index.h"

#include "kernels/compare.h"

using namespace olmoe::kernels;

TEST_CASE("chunks cover every row once and in order, and fit one wave of blocks", "[kernels]") {
  const int64_t rows = GENERATE(values<int64_t>({1, 7, 8, 9, 528, 4224, 4225, 16384, 131072, int64_t{1} << 33}));
  CAPTURE(rows);
  const RowChunks chunks{rows};
  REQUIRE(chunks.chunks() >= 1);
  CHECK(chunks.chunks() <= RowChunks::kMaxChunks);
  int64_t next = 0;
  for (int64_t chunk = 0; chunk < chunks.chunks(); ++chunk) {
    const Range range = chunks[chunk];
    CHECK(range.begin == next);
    CHECK(range.end > range.begin);
    next = range.end;
  }
  CHECK(next == rows);
}

TEST_CASE("no rows have no chunks", "[kernels]") { CHECK(RowChunks{0}.chunks() == 0); }

TEST_CASE("shares cover all items once and in order, also with fewer items than shares", "[kernels]") {
  const int64_t count = GENERATE(0, 1, 15, 16, 17, 100, 528), parts = 16;
  CAPTURE(count);
  int64_t next = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const Range share = share_of(count, part, parts);
    CHECK(share.begin == next);
    CHECK(share.end >= share.begin);
    next = share.end;
  }
  CHECK(next == count);
}
