// Variants of the block and of what is outside of the blocks: against the dense oracle in float64, with activation
// checkpointing, in layouts of ranks, and in checkpoints.
#include <algorithm>
#include <functional>
#include <set>

#include "parallel/collectives/thread_communicator.h"
#include "support/block_variants.h"
#include "support/catch.h"
#include "support/layout_ladder.h"
#include "support/oracle_check.h"
#include "support/slopes.h"
#include "trainer/conversion/saved_model.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

ModelConfig model_of(const BlockVariant& variant, Ffn ffn = Ffn::moe) {
  auto model = strong_losses();
  model.ffn = ffn;
  variant.change(model);
  if (ffn == Ffn::dense) model.num_shared_experts = 0, model.shared_expert_gate = false;
  REQUIRE(validate(model, "model").empty());
  return model;
}

void check_same_bits(const OneRank& ours, const OneRank& reference) {
  CHECK(at::equal(ours.runner.totals().losses_3, reference.runner.totals().losses_3));
  const auto expected = whole_params(reference.runner, &ShardedUnit::grad);
  for (const auto& [name, grad] : whole_params(ours.runner, &ShardedUnit::grad)) {
    INFO(name);
    CHECK(at::equal(grad, expected.at(name)));
    CHECK(grad.count_nonzero().item<int64_t>() > 0);
  }
}

}  // namespace

TEST_CASE("each variant equals the dense oracle in float64, losses, logits and gradients") {
  for (const auto ffn : {Ffn::moe, Ffn::dense})
    for (const auto& variant : block_variants()) {
      INFO(variant.name << ", " << enum_name(ffn));
      check_against_oracle(model_of(variant, ffn));
    }
}

TEST_CASE("the gradients of each variant are the slopes of its losses") {
  for (const auto& variant : block_variants()) {
    INFO(variant.name);
    check_slope(model_of(variant));
  }
}

TEST_CASE("recompute changes no bit of a variant") {
  const auto recompute = GENERATE(Recompute::selective, Recompute::full);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  CAPTURE(enum_name(recompute), dtype);
  for (const auto& variant : block_variants()) {
    INFO(variant.name);
    const auto model = model_of(variant);
    OneRank kept(model, dtype), recomputed(model, dtype, recompute);
    const auto batch = oracle_batch(model), no_batch = batch_of(batch.ids_BS.narrow(0, 0, 0));
    for (auto* rank : {&kept, &recomputed}) {
      rank->pass(batch);
      rank->runner.train_micro_batch(no_batch, loss_scale(1, 1.0));
    }
    check_same_bits(recomputed, kept);
  }
}

TEST_CASE("an output z-loss of hardly any weight changes no bit of the gradients") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  auto model = strong_losses();
  OneRank usual(model, dtype);
  usual.pass(oracle_batch(model));
  model.output_z_weight = 1e-300;
  OneRank with_z(model, dtype);
  with_z.pass(oracle_batch(model));
  CHECK(with_z.runner.totals().output_z_1.item<double>() > 0);
  check_same_bits(with_z, usual);
}

TEST_CASE("in float64 every layout of threads gives what one rank does, for variants", "[layouts]") {
  const int world_size = GENERATE(2, 3, 4);
  const std::string name = GENERATE("the successor's outside", "all that is tied and scaled",
                                    "LayerNorm before and after", "norms after shared experts too");
  CAPTURE(world_size, name);
  TempFolder folder;
  auto config = ladder_run(folder / "single", world_size);
  config.train.steps = 3;
  std::ranges::find(block_variants(), name, &BlockVariant::name)->change(config.model);
  const auto reference = run_single(config);
  REQUIRE(reference.metrics.size() == 3);
  for (const auto& line : reference.metrics)
    CHECK(line.contains("output_z_loss") == (config.model.output_z_weight > 0));
  for (const auto& layout : layouts_of(world_size)) {
    const TempFolder of_layout;
    config.run.folder = of_layout / "run";
    INFO(describe(layout));
    CHECK(error_on_threads(config, layout, reference) <= 1e-12);
  }
}

TEST_CASE("the losses of a step do not depend on its micro-batches") {
  TempFolder folder;
  const auto metrics = [&](int64_t micro_batch) {
    auto config = tiny_run(folder / fmt::format("run_{}", micro_batch));
    config.model.output_z_weight = 0.2;
    config.model.tie_embeddings = true;
    config.model.load_balancing_weight = 0;  // that loss is one of a micro-batch
    config.train.micro_batch_size = micro_batch;
    auto lines = run_single(config).metrics;
    for (auto& line : lines) line.erase("load_balancing_loss");
    return lines;
  };
  const auto whole = metrics(5);
  CHECK(whole.front().at("output_z_loss").get<double>() > 1);
  CHECK(metrics_error(metrics(1), whole) <= 1e-12);
  CHECK(metrics_error(metrics(2), whole) <= 1e-12);
}

TEST_CASE("a checkpoint has a tied weight once, and a run resumes from it in another layout") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  config.model.tie_embeddings = true;
  const auto reference = run_single(config);
  const auto saved = open_model(step_folder(config, 3), UnknownKeys::refused);
  std::set<std::string> weights;
  for (const auto& tensor : saved.tensors)
    if (tensor.kind == "weight") weights.insert(tensor.name);
  CHECK(weights.contains("embedding.weight"));
  CHECK_FALSE(weights.contains("head.weight"));
  for (const int64_t step : {4, 5, 6}) std::filesystem::remove_all(step_folder(config, step));
  config.parallel.zero_stage = GENERATE(1, 2, 3);
  run_ranks(2, [&](Communicator& world) {
    Trainer trainer(resolve_run(config, world.size()), world);
    ENSURE(trainer.step() == 3, "resumed at {}", trainer.step());
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
    const double error = slice_error(trainer, "weight", reference);
    ENSURE(error <= 1e-12, "weights differ by {}", error);
  });
}
