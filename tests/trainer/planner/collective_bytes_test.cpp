// Closed-form bytes of a step's collectives, compared with the counts of the communicators of real runs.
#include "trainer/planner/collective_bytes.h"

#include <fmt/ranges.h>

#include <bit>

#include "support/catch.h"
#include "support/layout_ladder.h"
#include "trainer/config/mesh_shape.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// What the communicators of one rank counted in a run, in the terms of CollectiveBytes.
CollectiveBytes counted(DeviceMesh& mesh) {
  const auto gathered = [](Communicator& group) { return group.diagnostics().traffic().all_gather.bytes; };
  const auto reduced = [](Communicator& group) { return group.diagnostics().traffic().reduce_scatter.bytes; };
  return {.gather_dense = gathered(mesh.shard()),
          .gather_experts = gathered(mesh.expert_shard()),
          .reduce_dense = reduced(mesh.shard()),
          .reduce_experts = reduced(mesh.expert_shard()),
          .replicas = mesh.replicate().diagnostics().traffic().all_reduce.bytes,
          .exchange = mesh.expert().diagnostics().traffic().all_to_all.bytes};
}

std::vector<int64_t> listed(const CollectiveBytes& bytes, int64_t times = 1) {
  std::vector<int64_t> out{bytes.gather_dense, bytes.gather_experts, bytes.reduce_dense, bytes.reduce_experts,
                           bytes.replicas};
  for (auto& value : out) value *= times;
  out.push_back(bytes.exchange);
  return out;
}

/// Runs a config in every layout of a world. Of each rank that sent other bytes than predicted, a line.
std::string differences(Config config, int world_size) {
  std::vector<std::string> of_rank(static_cast<size_t>(world_size));
  int64_t sent = 0;
  for (const auto& layout : layouts_of(world_size)) {
    if (config.model.ffn == Ffn::dense && layout.expert > 1) continue;
    TempFolder folder;
    auto run = config;
    run.run.folder = folder / "run";
    apply(layout, run);
    run_ranks(world_size, [&](Communicator& world) {
      Trainer trainer(resolve_run(run, world.size()), world);
      ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
      auto& mesh = trainer.mesh();
      const auto copies = trainer.token_copies();
      const auto predicted = count_collective_bytes(run, mesh.shape(), copies, mesh.replicate().rank());
      const auto steps = run.train.steps;
      auto ours = listed(predicted, steps), theirs = listed(counted(mesh));
      if (steps > 1) ours.back() = theirs.back();  // copies are those of the last step
      if (ours != theirs)
        of_rank[static_cast<size_t>(world.rank())] +=
            fmt::format("rank {}, {}: predicted {}, counted {}\n", world.rank(), describe(layout), fmt::join(ours, " "),
                        fmt::join(theirs, " "));
      if (world.rank() == 0) sent += predicted.total();
    });
  }
  ENSURE(world_size == 1 || sent > 0, "no layout sent anything");
  return fmt::format("{}", fmt::join(of_rank, ""));
}

}  // namespace

TEST_CASE("a run sends the bytes that were predicted, in every layout of up to 8 ranks", "[layouts]") {
  const auto [world_size, steps] =
      GENERATE(table<int, int64_t>({{1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}, {7, 1}, {8, 1}, {2, 3}, {4, 3}}));
  TempFolder folder;
  auto config = ladder_run(folder / "single", world_size);
  config.train.steps = steps;
  CHECK(differences(config, world_size) == "");
}

TEST_CASE(
    "bytes with other dtypes and recompute, chunks, the dense twin, counted steps, a tied head, variants of experts",
    "[layouts]") {
  const int change = GENERATE(range(0, 17));
  TempFolder folder;
  auto config = ladder_run(folder / "single", 4);
  config.train.steps = 1;
  config.train.compute_dtype = ComputeDtype::float32;
  if (change == 0) config.parallel.reduce_dtype = ReduceDtype::bfloat16;
  if (change == 1) config.train.compute_dtype = ComputeDtype::bfloat16;
  if (change == 2) config.train.recompute = Recompute::full;
  if (change == 3) config.parallel.expert_chunks = 3;
  if (change == 4) config.model.ffn = Ffn::dense;
  const bool counted = change >= 5 && change <= 7, over_layers = change == 9;
  if (counted) config.model.load_balancing_granularity = BalanceGranularity::step;  // two passes, counted first
  if (counted) config.train.micro_batch_size = 1;
  const bool weightless = change == 10;  // nothing is counted first
  if (over_layers || weightless) config.model.load_balancing_granularity = BalanceGranularity::step;
  if (over_layers) config.model.load_balancing_over_layers = true;  // one pass, counted first all the same
  if (weightless) config.train.micro_batch_size = 1, config.model.load_balancing_weight = 0;
  if (change == 6) config.train.recompute = Recompute::full;
  if (change == 7 || change == 8) config.model.tie_embeddings = config.model.embedding_norm = true;
  if (change == 11) config.model.latent_dim = 10;
  if (change == 12) config.model.routing = RoutingMethod::expert_choice, config.model.load_balancing_weight = 0;
  if (change == 13) config.model.layer_widths = {6, 18};
  if (change >= 14) config.model.share_experts = true;  // one micro-batch, or two of which each is counted first
  if (change == 15) config.train.micro_batch_size = 1;
  if (change == 15) config.model.load_balancing_granularity = BalanceGranularity::step;
  if (change == 16) config.model.tie_embeddings = true, config.train.recompute = Recompute::full;
  INFO("change " << change);
  CHECK(differences(config, 4) == "");
}

TEST_CASE("copies of a token to other ranks: the mean over all choices of its experts") {
  for (const int64_t ranks : {1, 2, 4, 8})
    for (const int64_t top_k : {1, 2, 3, 8}) {
      constexpr int64_t kExperts = 8;
      double copies = 0, choices = 0;
      for (uint32_t chosen = 0; chosen < (1U << kExperts); ++chosen) {
        if (std::popcount(chosen) != top_k) continue;
        uint32_t on_ranks = 0;
        for (int64_t e = 0; e < kExperts; ++e)
          if (chosen >> e & 1) on_ranks |= 1U << (e * ranks / kExperts);
        copies += std::popcount(on_ranks & ~1U);  // rank 0 asks
        choices += 1;
      }
      INFO("ranks " << ranks << ", top " << top_k);
      CHECK(expected_copies(kExperts, top_k, ranks) == Approx(copies / choices));
    }
  CHECK(expected_copies(64, 8, 8) * 8 / 7 == Approx(5.4326).epsilon(1e-4));  // 8 (1 - 56/64 55/63 ... 49/57)
}

TEST_CASE("bytes of the published run, by hand") {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", {});
  const auto bytes = count_collective_bytes(config, {1, 256, 1}, {});
  const double all = 6919161856., share = 255. / 256, head = 50304. * 2048 + 2048;
  const auto gathered = static_cast<double>(bytes.gather_dense + bytes.gather_experts);
  const auto reduced = static_cast<double>(bytes.reduce_dense + bytes.reduce_experts);
  CHECK(gathered == Approx(share * 2 * (2 * all - head)).epsilon(1e-4));
  CHECK(reduced == Approx(share * 4 * all).epsilon(1e-4));
  CHECK(bytes.replicas == 0);
  CHECK(bytes.exchange == 0);
}
