// Routing variants: against the dense oracle and finite differences, over ranks, micro-batches and a resumed run.
#include "support/routing_variants.h"

#include "support/layout_ladder.h"
#include "support/oracle_check.h"
#include "support/slopes.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Three micro-batches of at most two sequences a step; experts that two and four ranks divide.
Config variant_run(const std::string& folder, const RoutingVariant& variant) {
  auto config = tiny_run(folder);
  config.model.num_experts = 4;
  config.model.load_balancing_weight = 0.5;
  config.model = with(variant, config.model);
  return config;
}

/// The run of a variant whose experts balance over the whole step.
Config step_run(const std::string& folder, int64_t micro_batch) {
  auto config = tiny_run(folder);
  config.model.num_experts = 4;
  config.model.load_balancing_weight = 0.5;
  config.model.load_balancing_granularity = BalanceGranularity::step;
  config.train.micro_batch_size = micro_batch;
  return config;
}

void run_on(int ranks, Config config, int64_t steps) {
  config.train.steps = steps;
  run_to_the_end(ranks, config);
}

/// Buffers of the routers, the metrics and what a checkpoint says of idle experts.
Config cut_run(const std::string& folder, const std::function<void(ModelConfig&)>& set) {
  auto config = tiny_run(folder);
  config.train.steps = 8;
  config.schedule.decay_steps = 8;
  config.checkpoint.save_last = true;
  config.log.dead_expert_steps = 3;
  config.model.num_experts = 64;  // more than the tokens of a step reach
  config.model.top_k = 1;
  set(config.model);
  return config;
}

std::string shard_file(const Config& config, int64_t step, int rank) {
  return read_text(fmt::format("{}/shard_{:05}.safetensors", step_folder(config, step), rank));
}

}  // namespace

TEST_CASE("every routing variant equals the dense oracle in float64, forward and backward") {
  for (const auto& variant : routing_variants()) {
    INFO(variant.name);
    check_against_oracle(with(variant, strong_losses()));
  }
}

TEST_CASE("the gradients of every routing variant are the slopes of its losses") {
  for (const auto& variant : routing_variants()) {
    INFO(variant.name);
    check_slope(with(variant, strong_losses()));
  }
}

TEST_CASE("recompute changes no bit of any routing variant") {
  const auto recompute = GENERATE(Recompute::selective, Recompute::full);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  for (const auto& variant : routing_variants()) {
    INFO(variant.name);
    const auto model = with(variant, strong_losses());
    OneRank kept(model, dtype), recomputed(model, dtype, recompute);
    for (auto* rank : {&kept, &recomputed}) {
      rank->uneven_buffers();
      rank->pass(oracle_batch(model));
      rank->runner.train_micro_batch(batch_of(oracle_batch(model).ids_BS.narrow(0, 0, 0)), loss_scale(1, 1.0));
    }
    CHECK(at::equal(kept.runner.totals().losses_3, recomputed.runner.totals().losses_3));
    const auto expected = whole_params(kept.runner, &ShardedUnit::grad);
    for (const auto& [name, grad] : whole_params(recomputed.runner, &ShardedUnit::grad)) {
      INFO(name);
      CHECK(at::equal(grad, expected.at(name)));
    }
  }
}

TEST_CASE("every routing variant gives on four ranks with expert parallelism what one rank gives, in ZeRO-1 and 3") {
  for (const auto& variant : routing_variants()) {
    TempFolder folder;
    const auto reference = run_single(variant_run(folder / "single", variant));
    for (const Layout layout : {Layout{1, 4, 2, 1}, Layout{1, 4, 2, 3}, Layout{2, 2, 2, 3}}) {
      INFO(variant.name << ", " << describe(layout));
      CHECK(error_on_threads(variant_run(folder / describe(layout), variant), layout, reference) <= 1e-12);
    }
  }
}

TEST_CASE("balance over the step is that of one rank with one micro-batch, however the step is divided") {
  TempFolder folder;
  const auto whole = run_single(step_run(folder / "whole", 5));
  for (const int64_t micro_batch : {1, 2}) {
    const auto divided = run_single(step_run(folder / fmt::format("divided{}", micro_batch), micro_batch));
    CHECK(metrics_error(divided.metrics, whole.metrics) <= 1e-12);
    auto by_part = step_run(folder / fmt::format("by_part{}", micro_batch), micro_batch);
    by_part.model.load_balancing_granularity = BalanceGranularity::micro_batch;
    CHECK(metrics_error(run_single(by_part).metrics, whole.metrics) > 1e-6);
  }
  for (const auto recompute : {Recompute::none, Recompute::full})
    for (const Layout layout : {Layout{1, 2, 1, 2}, Layout{1, 2, 2, 3}, Layout{1, 4, 2, 1}, Layout{2, 2, 2, 3}}) {
      INFO(describe(layout) << ", " << enum_name(recompute));
      auto config = step_run(folder / fmt::format("{} {}", describe(layout), enum_name(recompute)), 1);
      config.train.recompute = recompute;
      CHECK(error_on_threads(config, layout, whole) <= 1e-12);
    }
}

TEST_CASE("a run with biases, counts and idle experts resumes bit for bit") {
  const int ranks = GENERATE(1, 2);
  const auto bias = GENERATE(ExpertBias::loss_free, ExpertBias::quantile);
  TempFolder folder;
  const auto set = [&](ModelConfig& model) {
    model.balancing_bias = bias;
    model.load_balancing_granularity = BalanceGranularity::previous_step;
  };
  const auto whole = cut_run(folder / "whole", set), cut = cut_run(folder / "cut", set);
  run_on(ranks, whole, 8);
  run_on(ranks, cut, 5);
  const auto at_cut = Manifest::read(step_folder(cut, 5));
  REQUIRE_FALSE(at_cut.idle_experts.empty());  // there is something to forget
  run_on(ranks, cut, 8);
  const auto expected = lines_of(whole.run.folder);
  REQUIRE(expected.size() == 8);
  CHECK(expected.back().at("dead_experts").get<int64_t>() > 0);
  CHECK(lines_of(cut.run.folder) == expected);
  for (int rank = 0; rank < ranks; ++rank) CHECK(shard_file(cut, 8, rank) == shard_file(whole, 8, rank));
  CHECK(Manifest::read(step_folder(cut, 8)).idle_experts == Manifest::read(step_folder(whole, 8)).idle_experts);
}

TEST_CASE("a run that starts from a checkpoint has its biases") {
  TempFolder folder;
  auto source = cut_run(folder / "source", [](ModelConfig& model) { model.balancing_bias = ExpertBias::loss_free; });
  run_on(1, source, 8);
  auto next = source;
  next.run.folder = folder / "next";
  next.train.init_from = step_folder(source, 8);
  next.train.steps = 1;
  next.checkpoint.every_steps = 1;
  next.model.balancing_bias_rate = 1e-9;  // so that the step leaves them as they were
  run_on(1, next, 1);
  const auto bias_of = [](const std::string& step_folder) {
    auto bias = at::zeros({64}, at::kDouble);
    CheckpointReader(step_folder).read("buffer", "blocks.1.moe.router.balancing_bias", 0, bias);
    return bias;
  };
  const auto expected = bias_of(step_folder(source, 8));
  CHECK(expected.abs().max().item<double>() > 1e-3);
  CHECK((bias_of(step_folder(next, 1)) - expected).abs().max().item<double>() < 1e-8);
}

TEST_CASE("a step that is not finite leaves bias and counts as they were") {
  auto model = tiny_model();
  model.balancing_bias = ExpertBias::loss_free;
  model.load_balancing_granularity = BalanceGranularity::previous_step;
  OneRank rank(model, at::kDouble);
  const auto buffers = [&] {
    FlatParams out;
    for (const auto& buffer : rank.runner.buffers()) out[buffer.slices.front().name] = buffer.flat.clone();
    return out;
  };
  const auto before = buffers();
  REQUIRE(before.size() == 6);
  rank.pass(oracle_batch(model));
  const auto totals = rank.runner.take_totals();
  rank.runner.end_step(totals, at::zeros({}, at::kBool));
  for (const auto& [name, value] : buffers()) CHECK(at::equal(value, before.at(name)));
  rank.runner.end_step(totals, at::ones({}, at::kBool));
  for (const auto& [name, value] : buffers()) {
    INFO(name);
    CHECK_FALSE(at::equal(value, before.at(name)));
    if (name.ends_with("counts")) CHECK(value.sum().item<double>() == 33. * model.top_k);
  }
}
