// The whole model, forward and backward, in float64 against the dense oracle; what recompute may
// and may not do.
#include "trainer/stage_runner.h"

#include "support/oracle_check.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// The whole parameter of a one-rank runner, to be written to.
at::Tensor parameter(StageRunner& runner, const std::string& name) {
  for (const auto& unit : runner.units())
    for (const auto& slice : unit->slices())
      if (slice.name == name) {
        unit->invalidate();
        return unit->shard.narrow(0, slice.offset, slice.end - slice.begin).view(slice.global_shape);
      }
  throw Error("no parameter " + name);
}

/// Notes what its stage is asked to do.
class Recorder : public Stage {
 public:
  struct Call {
    size_t stage;
    Phase phase;
    at::Tensor ids_before, ids_after;
  };
  Recorder(std::unique_ptr<Stage> stage, size_t index, std::vector<Call>& calls)
      : stage_(std::move(stage)), index_(index), calls_(calls) {}
  StageState state() override { return stage_->state(); }
  int64_t num_experts() const override { return stage_->num_experts(); }
  StageCost cost(const CostContext& context) const override { return stage_->cost(context); }
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const auto before = context.routing.ids_NK;
    auto out = stage_->forward(x_ND, context);
    calls_.push_back({index_, context.phase, before, context.routing.ids_NK});
    return out;
  }

 private:
  std::unique_ptr<Stage> stage_;
  size_t index_;
  std::vector<Call>& calls_;
};

/// Stages that write down in `calls` what they are asked to do.
std::function<Stages(Stages)> recorded_in(std::vector<Recorder::Call>& calls) {
  return [&calls](Stages stages) {
    for (size_t s = 0; s < stages.size(); ++s) stages[s] = std::make_unique<Recorder>(std::move(stages[s]), s, calls);
    return stages;
  };
}

}  // namespace

TEST_CASE("the MoE model equals the dense oracle in float64") {
  auto model = strong_losses();
  model.load_balancing_granularity =
      GENERATE(BalanceGranularity::micro_batch, BalanceGranularity::sequence, BalanceGranularity::global);
  model.renormalize_scores = GENERATE(false, true);
  check_against_oracle(model);
}

TEST_CASE("experts with a capacity equal the dense oracle without what they drop") {
  auto model = strong_losses();
  model.capacity_factor = GENERATE(0.4, 1.0);
  model.capacity_order = GENERATE(CapacityOrder::position, CapacityOrder::score);
  model.renormalize_scores = GENERATE(false, true);
  check_against_oracle(model);
  OneRank rank(model, at::kDouble);
  rank.pass(oracle_batch(model));
  CHECK(rank.runner.totals().dropped_1.item<double>() > 0);
}

TEST_CASE("clipped queries, keys and values equal the dense oracle") {
  auto model = strong_losses();
  model.clip_qkv = 0.8;
  model.qk_norm = GENERATE(QkNorm::full, QkNorm::none);
  check_against_oracle(model);
}

TEST_CASE("the dense model equals the dense oracle") {
  auto model = tiny_model();
  model.ffn = Ffn::dense;
  model.num_kv_heads = GENERATE(1, 4);
  check_against_oracle(model);
}

TEST_CASE("an expert without tokens equals the dense oracle and has exactly zero gradients") {
  auto model = strong_losses();
  model.top_k = 1;
  constexpr int64_t kIdle = 3;
  check_against_oracle(model, [&](StageRunner& runner) {
    for (int64_t l = 0; l < model.num_layers; ++l) {
      auto router_ED = parameter(runner, fmt::format("blocks.{}.moe.router.weight", l));
      router_ED[kIdle].copy_((router_ED[0] + router_ED[1]) / 2);  // a mean is never the largest
    }
    const auto batch = oracle_batch(model);
    runner.train_micro_batch(batch, loss_scale(1, 1.0));
    CHECK(runner.totals().counts_LE.sum().item<double>() == model.num_layers * batch.ids_BS.numel());
    CHECK(runner.totals().counts_LE.select(1, kIdle).count_nonzero().item<int64_t>() == 0);
    const auto grads = whole_params(runner, &ShardedUnit::grad);
    const auto down = grads.at("blocks.1.moe.experts.down.weight").view({model.num_experts, -1});
    CHECK(down[kIdle].count_nonzero().item<int64_t>() == 0);
    CHECK(down[0].count_nonzero().item<int64_t>() > 0);
    runner.reset_totals();
    for (const auto& unit : runner.units()) unit->grad.zero_();
  });
}

TEST_CASE("recompute changes no bit") {
  auto model = strong_losses();
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  const auto recompute = GENERATE(Recompute::selective, Recompute::full);
  const auto dtype = GENERATE(at::kFloat, at::kDouble, at::kBFloat16);
  CAPTURE(enum_name(ffn), enum_name(recompute), dtype);
  model.ffn = ffn;
  OneRank kept(model, dtype), recomputed(model, dtype, recompute);
  for (int pass = 0; pass < 2; ++pass) {  // the second one adds to the gradients of the first
    kept.pass(oracle_batch(model));
    recomputed.pass(oracle_batch(model));
  }
  CHECK(at::equal(kept.runner.totals().losses_3, recomputed.runner.totals().losses_3));
  CHECK(at::equal(kept.runner.totals().counts_LE, recomputed.runner.totals().counts_LE));
  const auto expected = whole_params(kept.runner, &ShardedUnit::grad);
  for (const auto& [name, grad] : whole_params(recomputed.runner, &ShardedUnit::grad)) {
    INFO(name);
    CHECK(at::equal(grad, expected.at(name)));
  }
}

TEST_CASE("selective recompute changes no bit of any variant of attention and router") {
  auto model = strong_losses();
  model.clip_qkv = 0.8;
  model.qk_norm = GENERATE(QkNorm::full, QkNorm::none);
  model.renormalize_scores = GENERATE(false, true);
  model.router_dtype = GENERATE(RouterDtype::float32, RouterDtype::compute);
  model.load_balancing_granularity = GENERATE(BalanceGranularity::micro_batch, BalanceGranularity::sequence);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  OneRank kept(model, dtype), recomputed(model, dtype, Recompute::selective);
  const auto batch = oracle_batch(model), no_batch = batch_of(batch.ids_BS.narrow(0, 0, 0));
  for (auto* rank : {&kept, &recomputed}) {
    rank->pass(batch);
    rank->runner.train_micro_batch(no_batch, loss_scale(1, 1.0));
  }
  CHECK(at::equal(kept.runner.totals().losses_3, recomputed.runner.totals().losses_3));
  const auto expected = whole_params(kept.runner, &ShardedUnit::grad);
  for (const auto& [name, grad] : whole_params(recomputed.runner, &ShardedUnit::grad)) {
    INFO(name);
    CHECK(at::equal(grad, expected.at(name)));
    CHECK(grad.count_nonzero().item<int64_t>() > 0);
  }
}

TEST_CASE("selective recompute runs no stage again") {
  const auto model = tiny_model();
  std::vector<Recorder::Call> calls;
  OneRank rank(model, recompute_options(at::kDouble, Recompute::selective), recorded_in(calls));
  rank.pass(oracle_batch(model));
  const auto num_stages = static_cast<size_t>(model.num_layers) + 2;
  REQUIRE(calls.size() == num_stages);
  for (size_t s = 0; s < num_stages; ++s) CHECK(calls[s].phase == Phase::train);
}

TEST_CASE("full checkpointing reruns every stage but the last, with the routing of its forward") {
  const auto model = tiny_model();
  std::vector<Recorder::Call> calls;
  OneRank rank(model, recompute_options(at::kDouble, Recompute::full), recorded_in(calls));
  rank.pass(oracle_batch(model));

  const auto num_stages = static_cast<size_t>(model.num_layers) + 2;
  REQUIRE(calls.size() == 2 * num_stages - 1);
  for (size_t s = 0; s < num_stages; ++s) {
    CHECK(calls[s].stage == s);
    CHECK(calls[s].phase == Phase::train);
    CHECK_FALSE(calls[s].ids_before.defined());
  }
  for (size_t i = 0; i + 1 < num_stages; ++i) {
    const auto& again = calls[num_stages + i];
    CHECK(again.stage == num_stages - 2 - i);
    CHECK(again.phase == Phase::recompute);
    CHECK(again.ids_before.is_same(calls[again.stage].ids_after));
    CHECK(again.ids_after.is_same(again.ids_before));
    CHECK(again.ids_before.defined() == (again.stage > 0));
  }
}

TEST_CASE("bf16 compute stays near fp32, with fp32 gradients") {
  auto model = tiny_model();
  model.init_std = 0.1;
  OneRank fp32(model, at::kFloat), bf16(model, at::kBFloat16);
  const auto batch = oracle_batch(model);
  fp32.pass(batch);
  bf16.pass(batch);
  const double expected = fp32.runner.totals().losses_3[0].item<double>() / static_cast<double>(batch.num_targets);
  const double loss = bf16.runner.totals().losses_3[0].item<double>() / static_cast<double>(batch.num_targets);
  // bf16 keeps 8 bits: logits of size 1 are off by some 2^-8 each, their mean over 30 tokens by
  // less than one of them.
  CHECK(std::abs(loss - expected) <= std::ldexp(1.0, -8));
  CHECK(loss != expected);
  const auto reference = whole_params(fp32.runner, &ShardedUnit::grad);
  for (const auto& [name, grad] : whole_params(bf16.runner, &ShardedUnit::grad)) {
    INFO(name);
    CHECK(grad.scalar_type() == at::kFloat);
    CHECK(grad.isfinite().all().item<bool>());
    CHECK(at::cosine_similarity(grad, reference.at(name), 0).item<double>() > 0.98);
  }
}

TEST_CASE("gradients do not depend on the contents of their buffers before the micro-batch") {
  auto model = tiny_model();
  model.share_experts = GENERATE(false, true);
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto batch = oracle_batch(model);  // of both ranks
  run_ranks(2, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = 2, .expert = 1});
    auto options = runner_options(at::kFloat, residency);
    options.grads = residency;
    const auto gradients = [&](double before) {
      StageRunner runner(make_stages(model, mesh), mesh, options);
      fill_weights(runner.units(), uneven_weights(model));
      for (const auto& unit : runner.units())
        for (const auto& param : unit->params()) param.slot->grad().fill_(before);
      for (const bool last : {false, true})
        runner.train_micro_batch(batch, loss_scale(/*num_targets=*/100, /*aux_share=*/0.5), last);
      std::vector<at::Tensor> out;
      for (const auto& unit : runner.units()) out.push_back(unit->grad.clone());
      return out;
    };
    const auto clean = gradients(0), spoilt = gradients(std::nan(""));
    for (size_t u = 0; u < clean.size(); ++u) {
      ENSURE(clean[u].abs().max().item<double>() > 0, "unit {} has no gradient", u);
      ENSURE(at::equal(spoilt[u], clean[u]), "unit {}: what was there before has a part in its gradient", u);
    }
  });
}
