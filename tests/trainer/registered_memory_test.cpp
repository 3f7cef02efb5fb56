// Which buffers a runner asks of which group, and that it changes no bit.
#include <map>

#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// What was asked of the groups of one rank, by their names.
struct Asked {
  std::map<std::string, std::vector<const void*>> allocated, registered;
};

class AccountedBuffers final : public BufferRegistry {
 public:
  AccountedBuffers(std::string group, Asked& asked) : BufferRegistry(std::move(group)), asked_(asked) {}

 private:
  at::Tensor do_allocate(int64_t bytes, c10::Device device) override {
    auto buffer = at::zeros({bytes}, at::device(device).dtype(at::kByte));
    asked_.allocated[group()].push_back(buffer.const_data_ptr());
    return buffer;
  }
  void do_register_buffer(const at::Tensor& buffer) override {
    asked_.registered[group()].push_back(buffer.const_data_ptr());
  }

  Asked& asked_;
};

/// A group of one that records what is allocated and registered.
class Accountant final : public Communicator {
 public:
  Accountant(std::string name, Asked& asked)
      : Communicator(std::move(name), 0, 1), buffers_(this->name(), asked), asked_(asked) {}
  void abort(int) override {}
  BufferRegistry& buffers() override { return buffers_; }

 private:
  void do_all_gather(at::Tensor&, const at::Tensor&) override {}
  void do_reduce_scatter(at::Tensor&, const at::Tensor&) override {}
  void do_all_reduce(at::Tensor&, Reduce) override {}
  void do_all_to_all(at::Tensor&, const at::Tensor&, const std::vector<int64_t>&,
                     const std::vector<int64_t>&) override {}
  void do_broadcast(at::Tensor&, int) override {}
  void do_barrier() override {}
  std::unique_ptr<Communicator> do_split(int, int, std::string name) override {
    return std::make_unique<Accountant>(std::move(name), asked_);
  }

  AccountedBuffers buffers_;
  Asked& asked_;
};

struct Outcome {
  std::vector<at::Tensor> grads;
  at::Tensor losses_3;
};

std::vector<Outcome> run(StageRunner::Options options, MeshShape shape, bool registered) {
  options.registered_memory = registered;
  const auto model = tiny_model();
  at::manual_seed(3);
  const auto batch = batch_of(at::randint(model.vocab_size, {3, 11}, at::kLong));
  const int ranks = shape.replicate * shape.shard;
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](Communicator& world) {
    ENSURE(world.size() == ranks, "{} ranks", world.size());
    DeviceMesh mesh(world, shape);
    StageRunner runner(make_stages(model, mesh), mesh, options);
    fill_weights(runner.units(), random_init(model, 7));
    for (int pass = 0; pass < 2; ++pass) runner.train_micro_batch(batch, loss_scale(60, 0.5));
    runner.reduce_replicas();
    auto& outcome = outcomes[static_cast<size_t>(world.rank())];
    outcome.losses_3 = runner.totals().losses_3.clone();
    for (const auto& unit : runner.units()) outcome.grads.push_back(unit->grad.clone());
  });
  return outcomes;
}

}  // namespace

TEST_CASE("buffers of collectives come from the groups that use them, where that is asked for") {
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const bool registered = GENERATE(true, false);
  Asked asked;
  {
    Accountant world("world", asked);
    DeviceMesh mesh(world, {});
    auto options = runner_options(at::kBFloat16, residency);
    options.registered_memory = registered;
    const StageRunner runner(make_stages(tiny_model(), mesh), mesh, options);
    if (!registered) {
      CHECK(asked.allocated.empty());
      CHECK(asked.registered.empty());
      return;
    }
    const auto units = runner.units().size();
    CHECK(asked.allocated.at("replicate").size() == units);
    // Two pools for weights, or a buffer for each unit; two for full gradients, which no unit of one rank needs.
    CHECK(asked.allocated.at("shard").size() == (residency == Residency::pooled ? 4 : units + 4));
    REQUIRE(asked.registered.size() == 1);
    CHECK(asked.registered.at("expert_shard") == asked.allocated.at("shard"));
    CHECK_FALSE(asked.allocated.contains("expert_shard"));
    for (size_t u = 0; u < units; ++u)
      CHECK(runner.units()[u]->grad.const_data_ptr() == asked.allocated.at("replicate")[u]);
  }
}

TEST_CASE("memory of the groups changes no bit") {
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto shape = GENERATE(MeshShape{1, 3, 1}, MeshShape{2, 2, 1}, MeshShape{2, 1, 1});
  const auto options = runner_options(dtype, residency);
  const auto with = run(options, shape, true), without = run(options, shape, false);
  for (size_t rank = 0; rank < with.size(); ++rank) {
    INFO("rank " << rank << " of " << with.size());
    CHECK(at::equal(with[rank].losses_3, without[rank].losses_3));
    REQUIRE(with[rank].grads.size() == without[rank].grads.size());
    for (size_t unit = 0; unit < with[rank].grads.size(); ++unit)
      CHECK(at::equal(with[rank].grads[unit], without[rank].grads[unit]));
  }
}
