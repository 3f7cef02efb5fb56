// What a step's line of metrics.jsonl holds.
#include "trainer/metrics.h"

#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

nlohmann::json line_of(const StepMetrics& metrics) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "run");
  MetricsLog(folder / "run", /*writes=*/true, 0, 1'000'000, 1'000'000).write(metrics);
  return metrics_of(folder / "run").at(0);
}

}  // namespace

TEST_CASE("a step's line tells the waits of the host where they were counted, and only there") {
  StepMetrics metrics{};
  metrics.step = 7;
  CHECK_FALSE(line_of(metrics).contains("host_syncs"));
  for (const int64_t syncs : {0, 3}) {
    metrics.host_syncs = syncs;
    CHECK(line_of(metrics).at("host_syncs") == syncs);
    CHECK(line_of(metrics).at("step") == 7);
  }
}
