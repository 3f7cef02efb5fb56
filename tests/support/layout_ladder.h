// Every layout of a world compared with one rank: for ranks that are threads, and for those that are processes.
#pragma once
#include <ATen/ops/full.h>

#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace olmoe::test {

struct Layout {
  int64_t replicate, shard, expert, zero_stage;
};

inline std::string describe(const Layout& layout) {
  return fmt::format("replicate {} x shard {} (expert {}), ZeRO-{}", layout.replicate, layout.shard, layout.expert,
                     layout.zero_stage);
}

/// All of a world: replicate x shard = world, expert divides shard, ZeRO-1, 2 and 3.
inline std::vector<Layout> layouts_of(int world) {
  std::vector<Layout> out;
  for (int64_t shard = 1; shard <= world; ++shard)
    for (int64_t expert = 1; expert <= shard; ++expert)
      for (int64_t zero_stage = 1; zero_stage <= 3; ++zero_stage)
        if (world % shard == 0 && shard % expert == 0) out.push_back({world / shard, shard, expert, zero_stage});
  return out;
}

inline void apply(const Layout& layout, Config& config) {
  config.parallel.replicate = layout.replicate;
  config.parallel.shard = layout.shard;
  config.parallel.expert = layout.expert;
  config.parallel.zero_stage = layout.zero_stage;
}

/// Five steps in float64, with a number of experts that every divisor of the world divides.
inline Config ladder_run(const std::string& folder, int world) {
  auto config = tiny_run(folder);
  config.model.num_experts = world <= 2 ? 4 : world;
  config.model.top_k = config.model.num_experts > 6 ? 3 : 2;
  config.model.num_layers = 2;
  config.train.steps = 5;
  return config;
}

/// The same on GPUs that ranks share, of widths that a GPU takes in each dtype.
inline Config gpu_ladder_run(const std::string& folder, int world) {
  auto config = ladder_run(folder, world);
  config.model.expert_width = 16;
  config.train.device = DeviceKind::cuda;
  config.parallel.transport = Transport::host;
  return config;
}

/// Global balance: one accumulation step, so that the one rank has a single micro-batch.
inline Config global_balance(Config config, int world) {
  config.model.load_balancing_granularity = BalanceGranularity::global;
  config.model.load_balancing_weight = 0.5;
  config.train.micro_batch_size = (config.train.global_batch_size + world - 1) / world;
  return config;
}

/// Largest relative error of any number of any line; infinite where lines or numbers are missing.
inline double metrics_error(const std::vector<nlohmann::json>& ours, const std::vector<nlohmann::json>& reference) {
  double worst = ours.size() == reference.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(ours.size(), reference.size()); ++i) {
    if (ours[i].size() != reference[i].size()) return INFINITY;
    for (const auto& [key, value] : reference[i].items()) {
      const double expected = value.get<double>(), gap = std::abs(ours[i].value(key, double(INFINITY)) - expected);
      worst = std::max(worst, gap / std::max(std::abs(expected), 1e-300));
    }
  }
  return worst;
}

/// Runs `config` in a layout and returns the largest relative error of losses, norms, weights and mean gradients (which
/// hold those of every step: the optimizer clears them) of any rank against the run of one. Collective over world.
inline double layout_error(Config config, const Layout& layout, Communicator& world, const FinishedRun& reference) {
  apply(layout, config);
  ensure_valid(config);
  ENSURE(layout.replicate * layout.shard == world.size(), "{} ranks run", world.size());
  Trainer trainer(resolve_run(config, world.size()), world);
  ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
  double worst = std::max({slice_error(trainer, "weight", reference), slice_error(trainer, "exp_avg", reference),
                           slice_error(trainer, "momentum", reference)});
  world.barrier();  // rank 0 has written its metrics
  worst = std::max(worst, metrics_error(metrics_of(config.run.folder), reference.metrics));
  auto largest = at::full({1}, worst, at::kDouble);
  world.all_reduce(largest, Reduce::max);
  return largest.item<double>();
}

/// The same with ranks that are threads of this process.
inline double error_on_threads(const Config& config, const Layout& layout, const FinishedRun& reference) {
  double error = INFINITY;
  run_ranks(static_cast<int>(layout.replicate * layout.shard), [&](Communicator& world) {
    const double of_all = layout_error(config, layout, world, reference);
    if (world.rank() == 0) error = of_all;
  });
  return error;
}

/// Checks that the run in every layout of `world_size` threads is that of one rank.
inline void check_layouts(Config config, int world_size, const FinishedRun& reference) {
  for (const auto& layout : layouts_of(world_size)) {
    TempFolder folder;
    config.run.folder = folder / "run";
    INFO(describe(layout));
    CHECK(error_on_threads(config, layout, reference) <= 1e-12);
  }
}

}  // namespace olmoe::test
