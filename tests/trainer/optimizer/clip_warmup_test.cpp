// The warm-up of the clipping norm: which step has which norm, in the formula, in a run and when it resumes.
#include "support/layout_ladder.h"
#include "support/optimizer_fixture.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr double kNorm = 0.5, kFactor = 5;

OptimizerConfig warmup_config(int64_t steps) {
  return {.lr = 0.01, .clip_norm = kNorm, .clip_warmup_factor = steps > 0 ? kFactor : 1, .clip_warmup_steps = steps};
}

/// The first moments after a step with gradients of that global norm.
FlatParams first_moments(TestOptimizer& ours, StepNumber step, double norm) {
  FlatParams grads;
  int64_t numel = 0;
  for (const auto& [name, w] : ours.weights()) grads[name] = at::ones_like(w), numel += w.numel();
  for (auto& [name, grad] : grads) grad *= norm / std::sqrt(static_cast<double>(numel));
  ours.set_grads(grads);
  ours.optimizer.step(step, 0.01, ours.optimizer.grad_norm(ours.mesh.shard()));
  FlatParams out;
  for (const auto& state : ours.optimizer.state())
    for (const auto& slice : state.slices)
      if (state.kind == "exp_avg")
        out[slice.name] = state.flat.narrow(0, slice.offset, slice.end - slice.begin).clone();
  return out;
}

/// The norm to which gradients of a norm of 10 are clipped in a step: that of the first moments / (1 - beta1).
double clipped_norm(const OptimizerConfig& config, StepNumber step) {
  TestOptimizer ours(config);
  double square = 0;
  for (const auto& [name, m] : first_moments(ours, step, 10)) square += m.square().sum().item<double>();
  return std::sqrt(square) / (1 - config.beta1);
}

}  // namespace

TEST_CASE("the clipping norm is a multiple of itself up to the last step of its warm-up") {
  const auto config = warmup_config(3);
  for (const int64_t step : {1, 2, 3, 4, 1000}) CHECK(config.clip_norm_of(step) == (step <= 3 ? 2.5 : 0.5));
  CHECK(warmup_config(0).clip_norm_of(1) == 0.5);
}

TEST_CASE("gradients are clipped to the norm of their step, counted by the run and not by the moments") {
  for (const auto& [step, expected] :
       std::vector<std::pair<StepNumber, double>>{{1, 2.5}, {3, 2.5}, {4, 0.5}, {{3, 100}, 2.5}, {{4, 100}, 0.5}}) {
    CAPTURE(step.of_run, step.of_optimizer);
    CHECK(clipped_norm(warmup_config(3), step) == Approx(expected).epsilon(1e-6));
    CHECK(clipped_norm(warmup_config(0), step) == Approx(kNorm).epsilon(1e-6));
  }
}

TEST_CASE("after its warm-up the norm clips with the bits of a run without one, and what is smaller stays as it is") {
  TestOptimizer with(warmup_config(3)), without(warmup_config(0));
  for (const double norm : {10.0, 0.4}) {
    const auto ours = first_moments(with, 4, norm), expected = first_moments(without, 4, norm);
    for (const auto& [name, m] : expected) CHECK(at::equal(m, ours.at(name)));
  }
}

TEST_CASE("a run with a warm-up of the clipping norm: its metrics, every layout of 2 ranks, and resumed bit for bit") {
  TempFolder folder;
  auto config = saving_run(folder / "run");
  config.model.num_experts = 4;
  config.optimizer = {.lr = 1e-3, .clip_norm = 1e-2, .clip_warmup_factor = kFactor, .clip_warmup_steps = 3};
  const auto reference = run_single(config);
  auto unlike = config;  // clipped alike in the first step, and then not
  unlike.run.folder = folder / "unlike";
  unlike.optimizer.clip_warmup_steps = 1;
  const auto other = run_single(unlike);
  for (const size_t i : {0, 1}) CHECK(reference.metrics[i] == other.metrics[i]);  // norms are those before clipping
  CHECK(reference.metrics[1]["grad_norm"].get<double>() > 5e-2);                  // so that both clip
  CHECK(reference.metrics[2]["loss"] != other.metrics[2]["loss"]);
  check_layouts(config, 2, reference);
  auto cut = config;
  cut.run.folder = folder / "cut";
  cut.train.steps = 2;
  run_to_the_end(1, cut);
  cut.train.steps = 6;
  run_to_the_end(1, cut);
  CHECK(lines_of(cut.run.folder) == lines_of(config.run.folder));
  check_same_shards(cut, config, 6, 1);
}
