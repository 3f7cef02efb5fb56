// A step that is captured and replayed has the bits of an eager one, whatever varies from step to step. Without a GPU
// the graph is a substitute, which keeps the work with the host's values of the capture.
#include "trainer/device_step.h"

#include "core/error.h"
#include "data/data_loader.h"
#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/attention_variants.h"
#include "support/block_variants.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/routing_variants.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

class HostGraph final : public DeviceGraph {
 public:
  explicit HostGraph(std::vector<std::string>& calls) : calls_(calls) {}
  void warm_up(const std::function<void()>& work) override {
    calls_.emplace_back("warm up");
    work();
  }
  void capture(const std::function<void()>& work) override {
    calls_.emplace_back("capture");
    work_ = work;
  }
  void replay() override {
    calls_.emplace_back("replay");
    work_();
  }

 private:
  std::vector<std::string>& calls_;
  std::function<void()> work_;
};

/// Like a CUDA graph: the capture runs the host code, and a replay writes results to the tensors of the capture.
class Tape final : public DeviceGraph {
 public:
  Tape(at::Tensor& input, at::Tensor& output) : input_(input), output_(output) {}
  void warm_up(const std::function<void()>& work) override { work(); }
  void capture(const std::function<void()>& work) override {
    work();
    output_.fill_(-1);
  }
  void replay() override { output_.copy_(input_ * 2); }

 private:
  at::Tensor &input_, &output_;
};

/// What one rank has after some steps with evaluations between them.
struct Outcome {
  std::vector<at::Tensor> numbers, held_out, weights;
  std::vector<std::vector<int64_t>> counts;  // by rank
  std::vector<std::string> calls;
};

constexpr int kSteps = 5;
constexpr int64_t kGlobalBatch = 5, kMicroBatch = 2, kLength = 9;

std::vector<Outcome> train(const StageRunner::Options& options, int ranks, bool captured,
                           const ModelConfig& model = tiny_model()) {
  const std::shared_ptr<const SequenceSource> source = make_synthetic_source(kLength, model.vocab_size, 5);
  OptimizerConfig config;
  config.clip_norm = 0.5;
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = ranks, .expert = 1});
    StageRunner runner(make_stages(model, mesh), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    Optimizer optimizer(runner.units(), config);
    auto& outcome = outcomes[static_cast<size_t>(world.rank())];
    const DataLoader::Plan plan{{kGlobalBatch, kMicroBatch, ranks}, world.rank(), 2};
    DeviceStep step(runner, optimizer, mesh, plan.batches,
                    captured ? std::make_unique<HostGraph>(outcome.calls) : nullptr, /*counts_every=*/1);
    DataLoader loader(source, plan, 0);
    for (int64_t s = 1; s <= kSteps; ++s) {
      outcome.numbers.push_back(
          step.run([&] { return loader.next(); }, s, 1e-2 / static_cast<double>(s)).packed().clone());
      outcome.counts.push_back(step.counts_by_rank(s).value_or(RankCounts{}).counts);
      outcome.held_out.push_back(runner.evaluate(make_batch(*source, 1000, 2)).clone());
    }
    for (const auto& state : saved_state(optimizer, runner)) outcome.weights.push_back(state.flat.clone());
  });
  return outcomes;
}

bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

void check_captured(const ModelConfig& model) {
  const auto plain = train(runner_options(at::kFloat), 2, false, model),
             captured = train(runner_options(at::kFloat), 2, true, model);
  for (size_t rank = 0; rank < plain.size(); ++rank) {
    CHECK(same(captured[rank].numbers, plain[rank].numbers));
    CHECK(same(captured[rank].weights, plain[rank].weights));
  }
}

}  // namespace

TEST_CASE("captured steps have the bits of eager ones, on any number of ranks") {
  const int ranks = GENERATE(1, 2, 4);  // two accumulation steps and more; one of four ranks has no sequence
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto options = runner_options(dtype, residency);
  const auto plain = train(options, ranks, false), captured = train(options, ranks, true);
  for (size_t rank = 0; rank < plain.size(); ++rank) {
    INFO("rank " << rank << " of " << ranks);
    CHECK(same(captured[rank].numbers, plain[rank].numbers));
    CHECK(same(captured[rank].held_out, plain[rank].held_out));
    CHECK(captured[rank].counts == plain[rank].counts);
    CHECK(plain[rank].counts[1] != plain[rank].counts[0]);
    CHECK(same(captured[rank].weights, plain[rank].weights));
    CHECK(plain[rank].calls.empty());
    CHECK(captured[rank].calls ==
          std::vector<std::string>{"warm up", "warm up", "capture", "replay", "replay", "replay"});
    for (size_t s = 1; s < kSteps; ++s) CHECK_FALSE(at::equal(plain[rank].numbers[s], plain[rank].numbers[s - 1]));
  }
}

TEST_CASE("captured steps of routing variants have the bits of eager ones, buffers included") {
  for (const auto& variant : routing_variants()) {
    INFO(variant.name);
    check_captured(with(variant, tiny_model()));
  }
}

TEST_CASE("captured steps of variants of the block have the bits of eager ones") {
  for (const auto& variant : block_variants()) {
    INFO(variant.name);
    auto model = tiny_model();
    variant.change(model);
    check_captured(model);
  }
}

TEST_CASE("captured steps of attention variants have the bits of eager ones, but for documents, which are refused") {
  for (const auto& variant : attention_variants()) {
    INFO(variant.name);
    if (!variant.documents) check_captured(with(variant, tiny_model()));
  }
  StaticBatches batches(at::kCPU, 1);
  CHECK_THROWS_WITH(batches.load([] {
    return with_documents(batch_of(at::ones({2, 5}, at::kLong)));
  }),
                    Catch::Contains("a batch with documents"));
}

namespace {

/// A micro-batch whose targets are masked unevenly: sequence s of the stream keeps those that are at least 2 s.
Batch masked_batch(const SequenceSource& source, int64_t first, int64_t count) {
  auto batch = make_batch(source, first, count);
  for (int64_t b = 0; b < count; ++b) {
    auto targets_S = batch.targets_BS[b];
    targets_S.masked_fill_(targets_S < 2 * (first + b), kIgnoredTarget);
  }
  batch.num_targets = (batch.targets_BS != kIgnoredTarget).sum().item<int64_t>();
  return batch;
}

struct MaskedStep {
  StepTotals totals;
  std::vector<at::Tensor> weights;  ///< of rank 0, which are all of them where it is alone
};

MaskedStep masked_step(int ranks, int64_t micro_batch) {
  constexpr int64_t kSequences = 6;
  auto model = tiny_model();
  model.load_balancing_weight = model.router_z_weight = 0;  // means over tokens, whatever their targets
  const auto source = make_synthetic_source(kLength, model.vocab_size, 5);
  MaskedStep out;
  run_ranks(ranks, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = ranks, .shard = 1, .expert = 1});
    StageRunner runner(make_stages(model, mesh), mesh, runner_options(at::kDouble));
    fill_weights(runner.units(), random_init(model, 7));
    const OptimizerConfig config;
    Optimizer optimizer(runner.units(), config);
    const BatchPlan plan{kSequences, micro_batch, ranks};
    DeviceStep step(runner, optimizer, mesh, plan, nullptr);
    int64_t i = 0;
    const auto next = [&] {
      const auto [first, count] = plan.sequences_of(world.rank(), i++);
      return masked_batch(*source, first, count);
    };
    const auto totals = step.run(next, 1, 1e-2).read(world);
    if (world.rank() != 0) return;
    out.totals = totals;
    for (const auto& state : optimizer.state()) out.weights.push_back(state.flat.clone());
  });
  return out;
}

}  // namespace

TEST_CASE("a step's loss is the mean over its target tokens, with any masks and micro-batches") {
  const auto whole = masked_step(1, 6);
  CHECK(whole.totals.targets > 6);
  CHECK(whole.totals.targets < 6 * (kLength - 1));  // some are masked
  for (const auto& [ranks, micro_batch] : {std::pair{1, 1}, {1, 4}, {2, 1}, {2, 2}, {4, 1}}) {
    CAPTURE(ranks, micro_batch);
    const auto spread = masked_step(ranks, micro_batch);
    CHECK(spread.totals.targets == whole.totals.targets);
    CHECK(spread.totals.loss() == Approx(whole.totals.loss()).epsilon(1e-12));
    CHECK(spread.totals.grad_norm == Approx(whole.totals.grad_norm).epsilon(1e-12));
    for (size_t i = 0; i < whole.weights.size(); ++i)
      CHECK(at::allclose(spread.weights[i], whole.weights[i], 1e-9, 1e-12));
  }
}

TEST_CASE("a replay returns the tensor of the capture, and the host's state is restored after it") {
  at::Tensor input = at::zeros({1}, at::kDouble), output;
  int restored = 0;
  StepGraph graph(std::make_unique<Tape>(input, output), [&] { ++restored; });
  const auto work = [&] { return output = input * 2; };
  for (int call = 0; call < 5; ++call) {
    input.fill_(call);
    const auto result = graph.run(work);
    CHECK(result.item<double>() == 2.0 * call);
    CHECK((call < 2 || result.is_same(output)));
    CHECK(restored == (call < 2 ? 0 : call));  // twice around the first replay
  }
}

TEST_CASE("a failed capture throws its error, and every later step that the process must end") {
  class Refusing final : public DeviceGraph {
    void warm_up(const std::function<void()>& work) override { work(); }
    void capture(const std::function<void()>& work) override {
      work();  // there is a result, but of no step
      throw Error("cudaErrorStreamCaptureInvalidated");
    }
    void replay() override {}
  };
  StepGraph graph(std::make_unique<Refusing>(), [] {});
  int done = 0;
  const auto work = [&] { return ++done, at::zeros({1}); };
  for (int step = 0; step < StepGraph::kWarmUpSteps; ++step) graph.run(work);
  CHECK_THROWS_WITH(graph.run(work), Catch::Contains("cudaErrorStreamCaptureInvalidated"));
  const int before = done;
  for (int again = 0; again < 2; ++again)
    CHECK_THROWS_WITH(graph.run(work), Catch::Contains("an earlier capture of the step failed") &&
                                           Catch::Contains("train.cuda_graph=false"));
  CHECK(done == before);
}

TEST_CASE("batches of a step stay where they are, and must be of the sizes of the first") {
  StaticBatches batches(at::kCPU, 2);
  int64_t value = 0;
  const auto next = [&] {  // of three sequences and of none, by turns
    const int64_t sequences = value % 2 == 0 ? 3 : 0;
    auto batch = batch_of(at::full({sequences, 4}, value++, at::kLong));
    batch.num_masked = sequences == 0 ? 0 : 2;
    return batch;
  };
  batches.load(next);
  const auto& [here, counts_2] = batches.step();
  const auto* const where = here[0].ids_BS.const_data_ptr();
  const auto* const counts_where = counts_2.const_data_ptr();
  CHECK(here[0].ids_BS.sum().item<int64_t>() == 0);
  batches.load(next);
  CHECK(here[0].ids_BS.const_data_ptr() == where);
  CHECK(here[0].ids_BS.sum().item<int64_t>() == 2 * 12);
  CHECK(here[0].num_targets == 9);
  CHECK(here[1].ids_BS.numel() == 0);
  CHECK(counts_2.const_data_ptr() == counts_where);
  CHECK(counts_2[0].item<int64_t>() == 9);
  CHECK(counts_2[1].item<int64_t>() == 2);
  ++value;
  CHECK_THROWS_WITH(batches.load(next),
                    Catch::Contains("accumulation step 0: a batch of 0 sequences, that of the first step had 3"));
}
