// Tasks of an evaluation: what they may ask of the model, and how their numbers reach metrics.jsonl.
#include "trainer/eval_task.h"

#include <ATen/ops/log_softmax.h>

#include "model/head.h"
#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/trainer_fixtures.h"
#include "trainer/evaluator.h"
#include "trainer/metrics.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Three sequences, of which some targets are ignored.
Batch batch_to_score(const ModelConfig& model) {
  auto batch = make_batch(*make_synthetic_source(9, model.vocab_size, 5), 0, 3);
  batch.targets_BS[1].slice(0, 0, 5).fill_(kIgnoredTarget);
  return batch;
}

ModelConfig four_experts() {
  auto model = tiny_model();
  model.num_experts = 4;
  return model;
}

/// Calls `work` on every rank with a runner of random weights.
void with_runners(int ranks, int expert, at::ScalarType dtype,
                  const std::function<void(StageRunner&, Communicator&)>& work,
                  const ModelConfig& model = four_experts()) {
  run_ranks(ranks, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = ranks, .expert = expert});
    StageRunner runner(make_stages(model, mesh), mesh, runner_options(dtype));
    fill_weights(runner.units(), random_init(model, 7));
    work(runner, world);
  });
}

/// The mean log-probability of the targets of one batch.
class MeanLogProbability final : public EvalTask {
 public:
  MeanLogProbability(std::string name, Batch batch) : name_(std::move(name)), batch_(std::move(batch)) {}
  const std::string& name() const override { return name_; }
  std::string fingerprint() const override { return "a batch"; }
  EvalSize size() const override { return {batch_.ids_BS.numel(), batch_.ids_BS.size(0)}; }
  std::optional<std::vector<EvalResult>> run(StageRunner& runner, Communicator&,
                                             const std::function<bool()>& stop) const override {
    if (stop()) return {};
    const auto targets = (batch_.targets_BS != kIgnoredTarget).sum().item<double>();
    return {{{name_, "log_prob", runner.score(batch_).sum().item<double>() / targets}, {name_, "targets", targets}}};
  }

 private:
  std::string name_;
  Batch batch_;
};

}  // namespace

TEST_CASE("each target's log-probability is that of the logits, and zero where it is ignored") {
  with_runners(1, 1, at::kDouble, [&](StageRunner& runner, Communicator&) {
    const auto batch = batch_to_score(tiny_model());
    const auto scores_BS = runner.score(batch);
    const auto logits_NV = dynamic_cast<Head&>(runner.last_stage()).logits(runner.run_to_last(batch));
    const auto targets_N = batch.targets_BS.flatten();
    const auto of_targets_N = at::log_softmax(logits_NV, 1).gather(1, targets_N.clamp_min(0).unsqueeze(1)).squeeze(1);
    const auto expected_N = of_targets_N.masked_fill(targets_N == kIgnoredTarget, 0);
    CHECK(scores_BS.sizes() == batch.ids_BS.sizes());
    CHECK(at::allclose(scores_BS.flatten(), expected_N, 1e-12, 1e-12));
    CHECK(scores_BS[1].slice(0, 0, 5).count_nonzero().item<int64_t>() == 0);
    CHECK(-scores_BS.sum().item<double>() == Approx(runner.evaluate(batch).item<double>()).epsilon(1e-12));
  });
}

TEST_CASE("candidates are scored in place of the targets, several at one position") {
  with_runners(1, 1, at::kDouble, [&](StageRunner& runner, Communicator&) {
    const auto batch = batch_to_score(tiny_model());
    const auto scores_N = runner.score(batch).flatten();
    const auto positions = at::tensor({20, 6, 6, 6, 0}, at::kLong);
    const auto targets_N = batch.targets_BS.flatten();
    auto ids = targets_N.index_select(0, positions);
    ids[2] = (ids[1] + 1) % 50;
    const auto log_probs = runner.score(batch, {positions, ids});
    CHECK(log_probs.sizes() == at::IntArrayRef({5}));
    CHECK(log_probs.scalar_type() == at::kDouble);
    for (const int candidate : {0, 1, 3, 4}) {
      const auto expected = scores_N[positions[candidate].item<int64_t>()].item<double>();
      CHECK(log_probs[candidate].item<double>() == Approx(expected).epsilon(1e-12));
    }
    const auto logits_NV = dynamic_cast<Head&>(runner.last_stage()).logits(runner.run_to_last(batch));
    const auto other = at::log_softmax(logits_NV[6], 0)[ids[2].item<int64_t>()].item<double>();
    CHECK(log_probs[2].item<double>() == Approx(other).epsilon(1e-12));
  });
}

TEST_CASE("a rank without candidates takes part in the forward of the others") {
  const auto batch = batch_to_score(tiny_model());
  const Candidates candidates{at::tensor({1, 9}, at::kLong), at::tensor({4, 2}, at::kLong)},
      none{at::zeros({0}, at::kLong), at::zeros({0}, at::kLong)};
  at::Tensor alone;
  with_runners(1, 1, at::kDouble, [&](StageRunner& runner, Communicator&) { alone = runner.score(batch, candidates); });
  with_runners(2, 2, at::kDouble, [&](StageRunner& runner, Communicator& world) {
    const bool has_some = world.rank() == 0;
    const auto scores =
        runner.score(has_some ? batch : batch_of(batch.ids_BS.narrow(0, 0, 0)), has_some ? candidates : none);
    if (has_some) ENSURE(at::allclose(scores, alone, 1e-12, 1e-12), "other scores on two ranks");
    if (!has_some) ENSURE(scores.numel() == 0, "scores of nothing");
  });
}

TEST_CASE("experts with a capacity drop nothing where texts are scored") {
  auto dropping = four_experts();
  dropping.capacity_factor = 0.5;
  const auto batch = batch_to_score(dropping);
  at::Tensor dropless, loss;
  const auto scores_of = [&](const ModelConfig& model, int expert) {
    at::Tensor scores;
    const auto work = [&](StageRunner& runner, Communicator& world) {
      const auto mine = runner.score(world.rank() == 0 ? batch : batch_of(batch.ids_BS.narrow(0, 0, 0)));
      const auto evaluated = runner.evaluate(world.rank() == 0 ? batch : batch_of(batch.ids_BS.narrow(0, 0, 0)));
      if (world.rank() == 0) scores = mine, loss = evaluated;
    };
    with_runners(expert, expert, at::kDouble, work, model);
    return scores;
  };
  dropless = scores_of(four_experts(), 1);
  const double loss_without_drops = loss.item<double>();
  for (const int expert : {1, 2}) {
    CHECK(at::allclose(scores_of(dropping, expert), dropless, 1e-12, 1e-12));
    CHECK(loss.item<double>() != Approx(loss_without_drops).epsilon(1e-6));
  }
}

TEST_CASE("scores are the same on any ranks, and leave the runner as it was") {
  const auto batch = batch_to_score(tiny_model());
  at::Tensor alone, evaluated;
  with_runners(1, 1, at::kFloat, [&](StageRunner& runner, Communicator&) {
    evaluated = runner.evaluate(batch);
    alone = runner.score(batch);
    CHECK(at::equal(runner.evaluate(batch), evaluated));
  });
  for (const int expert : {1, 2}) {
    with_runners(2, expert, at::kFloat, [&](StageRunner& runner, Communicator& world) {
      const auto scores = runner.score(world.rank() == 0 ? batch : batch_of(batch.ids_BS.narrow(0, 0, 0)));
      if (world.rank() == 0) ENSURE(at::allclose(scores, alone, 1e-5, 1e-6), "other scores with expert {}", expert);
      if (world.rank() == 1) ENSURE(scores.numel() == 0, "scores of nothing");
    });
  }
}

TEST_CASE("every task of an evaluation has its lines of metrics, by task and metric") {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "run");
  with_runners(1, 1, at::kDouble, [&](StageRunner& runner, Communicator& world) {
    std::vector<std::unique_ptr<EvalTask>> tasks;
    for (const char* const name : {"one", "two"})
      tasks.push_back(std::make_unique<MeanLogProbability>(name, batch_to_score(tiny_model())));
    const Evaluator evaluator(std::move(tasks));
    REQUIRE(evaluator.fingerprints().size() == 2);
    CHECK(evaluator.fingerprints()[1] == std::pair<std::string, std::string>("two", "a batch"));
    CHECK_FALSE(evaluator.evaluate(runner, world, /*last=*/false, [] { return true; }));
    const auto results = evaluator.evaluate(runner, world, /*last=*/false, [] { return false; });
    REQUIRE(results);
    MetricsLog(folder / "run", /*writes=*/true, 0, 10, 10).write(3, *results);
  });
  const auto line = metrics_of(folder / "run").at(0);
  CHECK(line.at("step") == 3);
  CHECK(line.at("eval/one/targets") == 24 - 5);
  CHECK(line.at("eval/one/log_prob").get<double>() < 0);
  CHECK(line.at("eval/two/log_prob") == line.at("eval/one/log_prob"));
}
