// A runner that is the only rank, and its losses and gradients in float64 against the dense oracle.
#pragma once
#include "core/random.h"
#include "model/head.h"
#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/dense_oracle.h"
#include "trainer/config/config_sections.h"
#include "trainer/weights.h"

namespace olmoe::test {

inline constexpr double kTolerance = 1e-10;  // max|ours - ref| / max|ref| of a tensor

/// Initial values, but norm weights and scales of about 1: at exactly 1 a misplaced one would not be seen.
inline ParamSource uneven_weights(const ModelConfig& model) {
  return [base = random_init(model, 7)](const std::string& name, int64_t begin, at::Tensor out) {
    base(name, begin, out);
    if (name.find("norm") == std::string::npos && name.find("scale") == std::string::npos) return;
    const TruncatedNormal normal(RandomStream(8, name), 2.0);
    for (int64_t i = 0; i < out.numel(); ++i) out[i] += 0.3 * normal(static_cast<uint64_t>(begin + i));
  };
}

using Stages = std::vector<std::unique_ptr<Stage>>;
inline StageRunner::Options recompute_options(at::ScalarType dtype, Recompute recompute) {
  auto options = runner_options(dtype, Residency::pooled, recompute == Recompute::full);
  if (recompute == Recompute::selective) options.save_policy = SavePolicy::selective;
  return options;
}

/// A runner that is the only rank, with weights.
struct OneRank {
  OneRank(const ModelConfig& model, StageRunner::Options options, const std::function<Stages(Stages)>& wrap)
      : world(make_single_communicator()), mesh(*world, {}), runner(wrap(make_stages(model, mesh)), mesh, options) {
    fill_weights(runner.units(), uneven_weights(model));
  }
  OneRank(const ModelConfig& model, at::ScalarType dtype, Recompute recompute = Recompute::none)
      : OneRank(model, recompute_options(dtype, recompute), [](Stages stages) { return stages; }) {}

  void pass(const Batch& batch) {
    runner.begin_step(std::span(&batch, 1), *world);
    runner.train_micro_batch(batch, loss_scale(batch.num_targets, /*aux_share=*/1.0));
  }

  /// The weights as leaves of an oracle.
  FlatParams leaves() {
    auto flat = whole_params(runner, &ShardedUnit::shard);
    FlatParams out;
    for (const auto& unit : runner.units())
      for (const auto& slice : unit->slices())
        out[slice.name] = flat.at(slice.name).view(slice.global_shape).requires_grad_();
    return out;
  }

  /// Sets every buffer to values that change choices and losses, and returns them by name.
  FlatParams uneven_buffers() {
    FlatParams out;
    for (const auto& buffer : runner.buffers()) {
      at::Tensor flat = buffer.flat;
      const bool counts = buffer.slices.front().name.ends_with("counts");
      const auto waves = at::arange(flat.numel(), flat.options()).mul(2.3).add(static_cast<double>(out.size())).sin();
      flat.copy_(counts ? waves.mul(8).add(10) : waves.mul(0.4));
      out[buffer.slices.front().name] = flat.clone();
    }
    return out;
  }

  std::unique_ptr<Communicator> world;
  DeviceMesh mesh;
  StageRunner runner;
};

inline Batch oracle_batch(const ModelConfig& model) {
  at::manual_seed(3);
  return batch_of(at::randint(model.vocab_size, {3, 11}, at::kLong));
}

inline void check_equal(const std::string& what, const at::Tensor& ours, const at::Tensor& reference) {
  INFO(what);
  REQUIRE(ours.numel() == reference.numel());
  const double scale = reference.abs().max().item<double>();
  const double gap = (ours.flatten() - reference.flatten()).abs().max().item<double>();
  CHECK(gap <= kTolerance * scale);  // exactly zero where the reference is
}

inline void check_against_oracle(const ModelConfig& model, const Batch& batch,
                                 const std::function<void(StageRunner&)>& change = {}) {
  OneRank ours(model, at::kDouble);
  if (change) change(ours.runner);
  auto leaves = ours.leaves();
  const DenseOracle oracle(model, leaves, ours.uneven_buffers());

  DenseOracle::Losses unused;
  const auto logits = oracle.logits(batch, unused);
  auto& head = dynamic_cast<Head&>(ours.runner.last_stage());
  check_equal("logits", head.logits(ours.runner.run_to_last(batch)), logits);

  const auto expected = oracle.losses(batch);
  expected.total(model).backward();
  ours.pass(batch);
  const auto losses = ours.runner.totals().losses_3;
  check_equal("cross-entropy", losses[0] / batch.num_targets, expected.cross_entropy);
  check_equal("load-balancing loss", losses[1], expected.balance);
  check_equal("z-loss", losses[2], expected.z);
  const auto output_z = ours.runner.totals().output_z_1 / batch.num_targets;
  check_equal("output z-loss", output_z, model.output_z_weight > 0 ? expected.output_z : at::zeros({}, at::kDouble));
  const auto grads = whole_params(ours.runner, &ShardedUnit::grad);
  REQUIRE(grads.size() == leaves.size());
  for (const auto& [name, leaf] : leaves) check_equal("gradient of " + name, grads.at(name), leaf.grad());
}

inline void check_against_oracle(const ModelConfig& model, const std::function<void(StageRunner&)>& change = {}) {
  check_against_oracle(model, oracle_batch(model), change);
}

inline ModelConfig strong_losses() {
  auto model = tiny_model();
  model.load_balancing_weight = 0.7;  // as large as the cross-entropy's gradients: an error would show
  model.router_z_weight = 0.2;
  return model;
}

}  // namespace olmoe::test
