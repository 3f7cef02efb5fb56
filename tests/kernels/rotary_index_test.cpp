#include "kernels/rotary_index.h"

#include "kernels/compare.h"

using namespace olmoe::kernels;

TEST_CASE("items cover every column of a row once, with its partner and its angle", "[kernels]") {
  const auto [heads, half, width] =
      GENERATE(table<int64_t, int64_t, int64_t>({{1, 1, 1}, {3, 5, 1}, {16, 64, 8}, {5, 24, 8}, {2, 4, 4}, {7, 6, 2}}));
  CAPTURE(heads, half, width);
  const int64_t d = 2 * half, W = heads * d;
  std::vector<int64_t> partner_of(W, -1), angle_of(W, -1);
  for (int64_t item = 0; item < W / 2 / width; ++item) {
    const int64_t first = pair_column(item, half, width);
    const int64_t angle = angle_column(first, half);
    for (int64_t i = 0; i < width; ++i) {
      REQUIRE(first + half + i < W);
      CHECK(partner_of[first + i] == -1);
      CHECK(partner_of[first + half + i] == -1);
      partner_of[first + i] = first + half + i;
      partner_of[first + half + i] = first + i;
      angle_of[first + i] = angle_of[first + half + i] = angle + i;
    }
  }
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t j = 0; j < half; ++j) {
      CHECK(partner_of[head * d + j] == head * d + half + j);
      CHECK(partner_of[head * d + half + j] == head * d + j);
      CHECK(angle_of[head * d + j] == j);
      CHECK(angle_of[head * d + half + j] == j);
    }
}
