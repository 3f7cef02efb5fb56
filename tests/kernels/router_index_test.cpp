#include "kernels/router_index.h"

#include <vector>

#include "support/catch.h"

using namespace olmoe::kernels;

TEST_CASE("runs of tokens cover every token once, within one group", "[kernels]") {
  const auto [groups, group_size] = GENERATE(table<int64_t, int64_t>(
      {{1, 1}, {1, kTokensPerRun}, {3, kTokensPerRun + 1}, {40, 1}, {2, kTokensPerRun - 1}, {5, 4 * kTokensPerRun}}));
  CAPTURE(groups, group_size);
  std::vector<int> routed(groups * group_size, 0);
  for (int64_t r = 0; r < groups * runs_per_group(group_size); ++r) {
    const TokenRun run = token_run(r, group_size);
    REQUIRE(run.begin < run.end);
    REQUIRE(run.end - run.begin <= kTokensPerRun);
    CHECK(run.begin / group_size == run.group);
    CHECK((run.end - 1) / group_size == run.group);
    for (int64_t t = run.begin; t < run.end; ++t) ++routed.at(t);
  }
  CHECK(routed == std::vector<int>(routed.size(), 1));
}
