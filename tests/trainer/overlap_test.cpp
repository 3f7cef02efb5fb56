// Gathering ahead and reducing behind: no bit changes, and each stage's weights are there before their turn.
#include "model/init.h"
#include "parallel/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

Batch random_batch(const ModelConfig& model, uint64_t seed) {
  at::manual_seed(seed);
  return batch_of(at::randint(model.vocab_size, {3, 11}, at::kLong));
}

/// What one rank holds after two passes and an evaluation.
struct Outcome {
  std::vector<at::Tensor> grads;
  at::Tensor losses_3, held_out;
};

std::vector<Outcome> run(const ModelConfig& model, const StageRunner::Options& options, int ranks) {
  const std::vector<Batch> batches{random_batch(model, 3), random_batch(model, 4)};
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = ranks, .expert = 1});
    StageRunner runner(make_stages(model, mesh), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    for (const auto& batch : batches) runner.train_pass(batch, {1.0 / 60, 0.5});
    auto& outcome = outcomes[static_cast<size_t>(world.rank())];
    outcome.held_out = runner.evaluate(batches[0]);
    outcome.losses_3 = runner.totals().losses_3.clone();
    for (const auto& unit : runner.units()) outcome.grads.push_back(unit->grad.clone());
  });
  return outcomes;
}

/// Counts the gathers that were made when its stage begins to compute.
class GatherCounter : public Stage {
 public:
  GatherCounter(std::unique_ptr<Stage> stage, const Communicator& group, std::vector<int64_t>& counts)
      : stage_(std::move(stage)), group_(group), counts_(counts) {}
  std::vector<Param> params() override { return stage_->params(); }
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    counts_.push_back(group_.traffic().all_gather.calls);
    return stage_->forward(x_ND, context);
  }

 private:
  std::unique_ptr<Stage> stage_;
  const Communicator& group_;
  std::vector<int64_t>& counts_;
};

}  // namespace

TEST_CASE("overlap changes no bit, on any number of ranks") {
  const auto model = tiny_model();
  const int ranks = GENERATE(1, 2, 3, 4);
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const bool recompute = GENERATE(false, true);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  auto options = runner_options(model, dtype, residency, recompute);
  REQUIRE(options.overlap);
  const auto with = run(model, options, ranks);
  options.overlap = false;
  const auto without = run(model, options, ranks);
  for (size_t rank = 0; rank < with.size(); ++rank) {
    INFO("rank " << rank << " of " << ranks);
    CHECK(at::equal(with[rank].losses_3, without[rank].losses_3));
    CHECK(at::equal(with[rank].held_out, without[rank].held_out));
    REQUIRE(with[rank].grads.size() == without[rank].grads.size());
    REQUIRE_FALSE(with[rank].grads.empty());
    for (size_t unit = 0; unit < with[rank].grads.size(); ++unit) {
      CHECK(at::equal(with[rank].grads[unit], without[rank].grads[unit]));
      CHECK(with[rank].grads[unit].count_nonzero().item<int64_t>() > 0);
    }
  }
}

TEST_CASE("a stage computes when the next one's weights have been asked for, and no others") {
  const auto model = tiny_model();
  const bool overlap = GENERATE(true, false);  // both make the same calls in the same order
  std::vector<int64_t> counts;
  int64_t num_stages = 0;
  run_ranks(2, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = 2, .expert = 1});
    std::vector<int64_t> own_counts;
    std::vector<std::unique_ptr<Stage>> stages;
    for (auto& stage : make_stages(model, mesh))
      stages.push_back(std::make_unique<GatherCounter>(std::move(stage), mesh.shard(), own_counts));
    if (world.rank() == 0) num_stages = std::ssize(stages);
    auto options = runner_options(model, at::kFloat, Residency::pooled, /*recompute=*/true);
    options.overlap = overlap;
    StageRunner runner(std::move(stages), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    runner.train_pass(random_batch(model, 3), {1.0 / 30, 1.0});
    if (world.rank() == 0) counts = own_counts;
  });
  REQUIRE(num_stages == model.num_layers + 2);
  std::vector<int64_t> expected;  // one dense unit a stage
  for (int64_t s = 0; s < num_stages; ++s) expected.push_back(std::min(s + 2, num_stages));
  // The last stage stays gathered for its backward, and is not computed again.
  for (int64_t s = num_stages - 2; s >= 0; --s)
    expected.push_back(num_stages + (num_stages - 1 - s) + (s > 0 ? 1 : 0));
  CHECK(counts == expected);
}
