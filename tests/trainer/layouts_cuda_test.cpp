// Ranks that are threads and share one GPU, staging what they exchange through host memory, beside one rank on a CPU.
// Tagged [cuda]; without a GPU these fail.
#include "support/catch.h"
#include "support/layout_ladder.h"

using namespace olmoe;
using namespace olmoe::test;

TEST_CASE("GPU: ranks that share it compute in each layout what one rank on a CPU does", "[cuda]") {
  const auto layout =
      GENERATE(Layout{1, 2, 1, 3}, Layout{2, 1, 1, 2}, Layout{1, 2, 2, 3}, Layout{1, 2, 2, 1}, Layout{2, 2, 2, 2});
  INFO(describe(layout));
  TempFolder folder;
  auto config = ladder_run(folder / "cpu", 4);
  const auto reference = run_single(config);
  config.run.folder = folder / "gpu";
  config.train.device = DeviceKind::cuda;
  config.parallel.transport = Transport::staged;
  config.parallel.expert_chunks = layout.expert;
  CHECK(error_on_threads(config, layout, reference) <= 1e-11);
}
