// The ladder's rungs of processes: all layouts of this world compute what one rank computes.
#include <cstring>

#include "../../parallel/mpi/world.h"
#include "support/catch.h"
#include "support/layout_ladder.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Rank 0's text on all ranks.
std::string shared(std::string text) {
  auto bytes = at::zeros({256}, at::kByte);
  ENSURE(text.size() < 256, "{} is too long", text);
  std::memcpy(bytes.data_ptr(), text.data(), text.size());
  mpi_world().broadcast(bytes, 0);
  return static_cast<const char*>(bytes.data_ptr());
}

/// Runs every layout in a folder of its own below rank 0's.
void check_all(const Config& config, const FinishedRun& reference) {
  const TempFolder own;
  const auto folder = shared(own / "runs");
  for (const auto& layout : layouts_of(mpi_world().size())) {
    auto run = config;
    run.run.folder =
        fmt::format("{}/{}_{}_{}_{}", folder, layout.replicate, layout.shard, layout.expert, layout.zero_stage);
    INFO(describe(layout));
    CHECK(layout_error(run, layout, mpi_world(), reference) <= 1e-12);
  }
}

}  // namespace

TEST_CASE("in float64 every layout of processes gives the losses, gradients and weights of one rank") {
  const TempFolder single;
  const auto config = ladder_run(single / "run", mpi_world().size());
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 5);
  check_all(config, reference);
}
