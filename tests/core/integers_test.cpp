// Integer division that rounds up, and the division of a range into parts.
#include "core/integers.h"

#include <algorithm>

#include "support/catch.h"

namespace olmoe {
namespace {

TEST_CASE("ceil_div rounds up, round_up is the next multiple") {
  CHECK(ceil_div(0, 4) == 0);
  CHECK(ceil_div(1, 4) == 1);
  CHECK(ceil_div(4, 4) == 1);
  CHECK(ceil_div(5, 4) == 2);
  CHECK(ceil_div((int64_t{1} << 40) + 1, 1 << 10) == (int64_t{1} << 30) + 1);
  CHECK(round_up(0, 128) == 0);
  CHECK(round_up(1, 128) == 128);
  CHECK(round_up(128, 128) == 128);
  CHECK(round_up(129, 96) == 192);
}

TEST_CASE("the sizes of parts from cut differ by at most one") {
  for (const int64_t n : {0, 1, 5, 12, 97, 1000}) {
    for (const int64_t parts : {1, 2, 3, 7, 12, 64}) {
      INFO(n << " elements, " << parts << " parts");
      CHECK(cut(n, parts, 0) == 0);
      CHECK(cut(n, parts, parts) == n);
      int64_t least = n, most = 0;
      for (int64_t p = 0; p < parts; ++p) {
        const int64_t size = cut(n, parts, p + 1) - cut(n, parts, p);
        least = std::min(least, size);
        most = std::max(most, size);
      }
      CHECK(least == n / parts);
      CHECK(most == ceil_div(n, parts));
    }
  }
}

TEST_CASE("cut does not overflow if the product of its arguments would") {
  constexpr int64_t kLarge = int64_t{1} << 60;
  CHECK(cut(kLarge, 48, 48) == kLarge);
  CHECK(cut(kLarge, 48, 24) == kLarge / 2);
}

}  // namespace
}  // namespace olmoe
