// A step that is recorded and replayed is the step that is done: the same bits, whatever varies from step to step.
// Without a GPU the recorder is a stand-in, which keeps the work with the host's values of its recording.
#include "trainer/device_step.h"

#include "core/error.h"
#include "data/data_loader.h"
#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

class StandIn final : public GraphRecorder {
 public:
  explicit StandIn(std::vector<std::string>& calls) : calls_(calls) {}
  void rehearse(const std::function<void()>& work) override {
    calls_.emplace_back("rehearse");
    work();
  }
  void record(const std::function<void()>& work) override {
    calls_.emplace_back("record");
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

/// As a graph does it: the recording runs the host's part, a replay writes results into the tensors of that time.
class Tape final : public GraphRecorder {
 public:
  Tape(at::Tensor& input, at::Tensor& output) : input_(input), output_(output) {}
  void rehearse(const std::function<void()>& work) override { work(); }
  void record(const std::function<void()>& work) override {
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
  std::vector<std::string> calls;
};

constexpr int kSteps = 5;
constexpr int64_t kGlobalBatch = 5, kMicroBatch = 2, kLength = 9;

std::vector<Outcome> train(const StageRunner::Options& options, int ranks, bool record) {
  const auto model = tiny_model();
  const std::shared_ptr<const InstanceSource> source = make_synthetic_source(kLength, model.vocab_size, 5);
  OptimizerConfig config;
  config.clip_norm = 0.5;
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 1, .shard = ranks, .expert = 1});
    StageRunner runner(make_stages(model, mesh), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    Optimizer optimizer(runner.units(), config);
    auto& outcome = outcomes[static_cast<size_t>(world.rank())];
    const DataLoader::Plan plan{kGlobalBatch, kMicroBatch, world.rank(), ranks, 2};
    DeviceStep step(runner, optimizer, mesh, {plan.rounds(), kGlobalBatch, kGlobalBatch * (kLength - 1)},
                    record ? std::make_unique<StandIn>(outcome.calls) : nullptr);
    DataLoader loader(source, plan, 0);
    for (int64_t s = 1; s <= kSteps; ++s) {
      outcome.numbers.push_back(step.run([&] { return loader.next(); }, s, 1e-2 / static_cast<double>(s)).clone());
      outcome.held_out.push_back(runner.evaluate(make_batch(*source, 1000, 2)).clone());
    }
    for (const auto& state : optimizer.state()) outcome.weights.push_back(state.flat.clone());
  });
  return outcomes;
}

bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

}  // namespace

TEST_CASE("a recorded step trains as the step itself, on any number of ranks") {
  const int ranks = GENERATE(1, 2, 4);  // two rounds and more of one or two sequences; of four ranks one has none
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto options = runner_options(tiny_model(), dtype, residency);
  const auto plain = train(options, ranks, false), recorded = train(options, ranks, true);
  for (size_t rank = 0; rank < plain.size(); ++rank) {
    INFO("rank " << rank << " of " << ranks);
    CHECK(same(recorded[rank].numbers, plain[rank].numbers));
    CHECK(same(recorded[rank].held_out, plain[rank].held_out));
    CHECK(same(recorded[rank].weights, plain[rank].weights));
    CHECK(plain[rank].calls.empty());
    CHECK(recorded[rank].calls ==
          std::vector<std::string>{"rehearse", "rehearse", "record", "replay", "replay", "replay"});
    for (size_t s = 1; s < kSteps; ++s) CHECK_FALSE(at::equal(plain[rank].numbers[s], plain[rank].numbers[s - 1]));
  }
}

TEST_CASE("what a replay returns is the tensor of the recording, and the host's state is put right around it") {
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

TEST_CASE("a step whose recording threw is not done again: its own error comes first, then that the process must end") {
  class Refusing final : public GraphRecorder {
    void rehearse(const std::function<void()>& work) override { work(); }
    void record(const std::function<void()>& work) override {
      work();  // the result is there, and is that of no step
      throw Error("cudaErrorStreamCaptureInvalidated");
    }
    void replay() override {}
  };
  StepGraph graph(std::make_unique<Refusing>(), [] {});
  int done = 0;
  const auto work = [&] { return ++done, at::zeros({1}); };
  for (int rehearsal = 0; rehearsal < StepGraph::kRehearsals; ++rehearsal) graph.run(work);
  CHECK_THROWS_WITH(graph.run(work), Catch::Contains("cudaErrorStreamCaptureInvalidated"));
  const int before = done;
  for (int again = 0; again < 2; ++again)
    CHECK_THROWS_WITH(graph.run(work),
                      Catch::Contains("could not be recorded before") && Catch::Contains("train.cuda_graph=false"));
  CHECK(done == before);
}

TEST_CASE("batches of a step stay where they are, and must be of the sizes of the first") {
  StaticBatches batches(at::kCPU, 2);
  int64_t value = 0;
  const auto next = [&] {  // of three sequences and of none, by turns
    const int64_t sequences = value % 2 == 0 ? 3 : 0;
    return batch_of(at::full({sequences, 4}, value++, at::kLong));
  };
  batches.load(next);
  const auto* const where = batches.of_round(0).ids_BS.const_data_ptr();
  CHECK(batches.of_round(0).ids_BS.sum().item<int64_t>() == 0);
  batches.load(next);
  CHECK(batches.of_round(0).ids_BS.const_data_ptr() == where);
  CHECK(batches.of_round(0).ids_BS.sum().item<int64_t>() == 2 * 12);
  CHECK(batches.of_round(0).num_targets == 9);
  CHECK(batches.of_round(1).ids_BS.numel() == 0);
  ++value;
  CHECK_THROWS_WITH(batches.load(next),
                    Catch::Contains("round 0: a batch of 0 sequences with 0 targets, the first step's had 3 and 9"));
}
