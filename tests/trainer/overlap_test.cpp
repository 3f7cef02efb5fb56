// Gathering ahead: each stage's weights have been asked for before their turn. On a CPU nothing overlaps; that no bit
// changes where it does is a [cuda] test of layouts_cuda_test.cpp.
#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
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

/// Counts the gathers that were made when its stage begins to compute.
class GatherCounter : public Stage {
 public:
  GatherCounter(std::unique_ptr<Stage> stage, const Communicator& group, std::vector<int64_t>& counts)
      : stage_(std::move(stage)), group_(group), counts_(counts) {}
  StageState state() override { return stage_->state(); }
  int64_t num_experts() const override { return stage_->num_experts(); }
  StageCost cost(const CostContext& context) const override { return stage_->cost(context); }
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    counts_.push_back(group_.diagnostics().traffic().all_gather.calls);
    return stage_->forward(x_ND, context);
  }

 private:
  std::unique_ptr<Stage> stage_;
  const Communicator& group_;
  std::vector<int64_t>& counts_;
};

}  // namespace

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
    auto options = runner_options(at::kFloat, Residency::pooled, /*recompute=*/true);
    options.overlap = overlap;
    StageRunner runner(std::move(stages), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    runner.train_micro_batch(random_batch(model, 3), loss_scale(30, 1.0));
    if (world.rank() == 0) counts = own_counts;
  });
  REQUIRE(num_stages == model.num_layers + 2);
  std::vector<int64_t> expected;  // one dense unit a stage
  for (int64_t s = 0; s < num_stages; ++s) expected.push_back(std::min(s + 2, num_stages));
  // The last stage stays gathered for its backward, and is not computed again.
  for (int64_t s = num_stages - 2; s >= 0; --s) expected.push_back(num_stages + (num_stages - 1 - s) + (s > 0 ? 1 : 0));
  CHECK(counts == expected);
}
