// All layouts of this world of processes: they compute what one rank computes (the ladder's rungs), and take the memory
// that is planned.
#include <cstring>

#include "../../parallel/mpi/world.h"
#include "support/catch.h"
#include "support/layout_ladder.h"
#include "support/measured_memory.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/planner/memory_plan.h"

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

/// Calls check(run, layout) for every layout, with a folder of its own below rank 0's.
template <class Check>
void for_all_layouts(const Config& config, const Check& check) {
  const TempFolder own;
  const auto folder = shared(own / "runs");
  for (const auto& layout : layouts_of(mpi_world().size())) {
    auto run = config;
    run.run.folder =
        fmt::format("{}/{}_{}_{}_{}", folder, layout.replicate, layout.shard, layout.expert, layout.zero_stage);
    INFO(describe(layout));
    check(run, layout);
  }
}

/// One step in which each rank has a whole micro-batch and, as a token takes every expert, equally many rows: the plan
/// is of ranks in balance.
Config balanced_run(const std::string& folder, int world) {
  auto config = measurable_run(folder);
  config.model.num_layers = 2;
  config.model.num_experts = config.model.top_k = world < 4 ? 6 : world;
  config.model.expert_width = 48;
  config.train.compute_dtype = ComputeDtype::float32;
  config.train.steps = 1;
  config.train.global_batch_size = world * config.train.micro_batch_size;
  return config;
}

}  // namespace

TEST_CASE("in float64 every layout of processes gives the losses, gradients and weights of one rank") {
  const TempFolder single;
  const auto config = ladder_run(single / "run", mpi_world().size());
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 5);
  for_all_layouts(config, [&](const Config& run, const Layout& layout) {
    CHECK(layout_error(run, layout, mpi_world(), reference) <= 1e-12);
  });
}

// Takes minutes, so it runs when it is asked for: mpirun -n 8 build/mpi_layouts_tests "[curves]"
TEST_CASE("in fp32 every layout of processes follows the loss curve of one rank for 100 steps", "[.][curves]") {
  constexpr size_t kSteps = 100;
  const TempFolder single;
  auto config = ladder_run(single / "run", mpi_world().size());
  config.model.init_std = 0.05;
  config.train.compute_dtype = ComputeDtype::float32;
  config.train.steps = kSteps;
  config.optimizer.lr = 1e-2;
  config.schedule.warmup_steps = 10;
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == kSteps);
  const auto loss = [](const nlohmann::json& line) { return line["loss"].get<double>(); };
  CHECK(loss(reference.metrics.back()) < loss(reference.metrics.front()) - 0.5);  // it learns
  for_all_layouts(config, [&](Config run, const Layout& layout) {
    apply(layout, run);
    ENSURE(Trainer(resolve_run(run, mpi_world().size()), mpi_world()).run() == ExitCode::ok,
           "the run did not end well");
    mpi_world().barrier();  // rank 0 has written its metrics
    const auto metrics = metrics_of(run.run.folder);
    REQUIRE(metrics.size() == kSteps);
    double worst = 0;
    for (size_t i = 0; i < kSteps; ++i)
      worst = std::max(worst, std::abs(loss(metrics[i]) / loss(reference.metrics[i]) - 1));
    CHECK(worst <= 1e-3);
  });
}

TEST_CASE("in every layout of processes the peak of each rank is the plan's, within 2 %") {
  const TempFolder own;
  for_all_layouts(balanced_run(own / "run", mpi_world().size()), [](Config run, const Layout& layout) {
    apply(layout, run);
    const auto plan = plan_memory(run, mesh_shape(run, mpi_world().size()));
    const auto planned = static_cast<double>(plan.total());
    const auto peak = static_cast<double>(measured_peak(run, mpi_world()));
    INFO(fmt::format("measured {:.3f} MiB of {}", peak / (1 << 20), describe(plan)));
    CHECK(planned == Approx(peak).epsilon(0.02));
  });
}
