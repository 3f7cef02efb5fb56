// Routing that a forward notes, and forwards on routing that is given: on one rank and on ranks that share experts.
#include <ATen/ATen.h>

#include "model/head.h"
#include "support/one_pass.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

ModelConfig probed_model() {
  auto model = tiny_model();
  model.num_experts = 4;
  return model;
}

struct Forward {
  RoutingProbe probe;
  at::Tensor x_ND;
};

/// Of two sequences on each rank of `world`, in a layout of so many ranks that share experts.
Forward forward_of(const ModelConfig& model, Communicator& world, int expert, const at::Tensor& experts_LNK = {}) {
  DeviceMesh mesh(world, {1, world.size(), expert});
  StageRunner runner(make_stages(model, mesh), mesh, runner_options(at::kDouble));
  fill_weights(runner.units(), random_init(model, 7));
  auto batch = random_batch(model);
  batch.experts_LNK = experts_LNK;
  Forward out;
  out.x_ND = runner.run_to_last(batch, &out.probe);
  return out;
}

/// Each expert moved by one: still two different experts for each token.
at::Tensor moved(const std::vector<at::Tensor>& experts_NK, int64_t num_experts) {
  return at::stack(experts_NK).add(1).remainder(num_experts).to(at::kInt).contiguous();
}

}  // namespace

TEST_CASE("a probe changes no output of a model without a capacity, on one rank and on two that share experts") {
  const auto model = probed_model();
  const auto alone = make_single_communicator();
  const auto probed = forward_of(model, *alone, 1);
  REQUIRE(probed.probe.experts_NK.size() == 3);
  CHECK(probed.probe.gates_NK.at(2).sizes() == probed.probe.experts_NK.at(2).sizes());
  DeviceMesh mesh(*alone, {});
  StageRunner runner(make_stages(model, mesh), mesh, runner_options(at::kDouble));
  fill_weights(runner.units(), random_init(model, 7));
  CHECK(runner.run_to_last(random_batch(model)).equal(probed.x_ND));
  run_ranks(2, [&](Communicator& world) {
    const auto shared = forward_of(model, world, 2);
    for (size_t l = 0; l < 3; ++l)
      ENSURE(shared.probe.experts_NK.at(l).equal(probed.probe.experts_NK[l]), "other experts in layer {}", l);
  });
}

TEST_CASE("layers take the experts of a batch in place of their own, and give them the gates of their own scores") {
  const auto model = probed_model();
  const auto alone = make_single_communicator();
  const auto own = forward_of(model, *alone, 1);
  const auto same = forward_of(model, *alone, 1, at::stack(own.probe.experts_NK));
  CHECK(same.x_ND.equal(own.x_ND));
  const auto given_LNK = moved(own.probe.experts_NK, model.num_experts);
  const auto other = forward_of(model, *alone, 1, given_LNK);
  CHECK_FALSE(other.x_ND.equal(own.x_ND));
  CHECK(at::stack(other.probe.experts_NK).equal(given_LNK));
  // The first layer has the same input: tokens keep the gate of an expert that both choices have.
  const auto& first = own.probe.experts_NK[0];
  const auto shared_NKK = first.unsqueeze(2).eq(given_LNK[0].unsqueeze(1));
  REQUIRE(shared_NKK.any().item<bool>());
  const auto gap_NKK = own.probe.gates_NK[0].unsqueeze(2) - other.probe.gates_NK[0].unsqueeze(1);
  CHECK(gap_NKK.masked_select(shared_NKK).abs().max().item<double>() < 1e-14);
  run_ranks(2, [&](Communicator& world) {
    const auto shared = forward_of(model, world, 2, given_LNK);
    ENSURE((shared.x_ND - other.x_ND).abs().max().item<double>() < 1e-12, "ranks that share experts differ");
  });
}

TEST_CASE("a training micro-batch on given experts counts them, and recomputes with them") {
  const auto model = probed_model();
  const auto alone = make_single_communicator();
  const auto given_LNK = moved(forward_of(model, *alone, 1).probe.experts_NK, model.num_experts);
  FlatParams grads;
  for (const bool recompute : {false, true}) {
    DeviceMesh mesh(*alone, {});
    StageRunner runner(make_stages(model, mesh), mesh, runner_options(at::kDouble, Residency::pooled, recompute));
    fill_weights(runner.units(), random_init(model, 7));
    auto batch = random_batch(model);
    batch.experts_LNK = given_LNK;
    runner.train_micro_batch(batch, loss_scale(batch.num_targets, 1.0));
    for (int64_t l = 0; l < 3; ++l)
      CHECK(runner.totals().counts_LE[l].equal(
          given_LNK[l].flatten().to(at::kLong).bincount({}, model.num_experts).to(at::kDouble)));
    const auto mine = olmoe::test::whole_params(runner, &ShardedUnit::grad);
    for (const auto& [name, grad] : grads) CHECK(grad.allclose(mine.at(name), 1e-10, 1e-14));
    grads = mine;
  }
}

TEST_CASE("given experts of another number of layers are refused") {
  const auto model = probed_model();
  const auto alone = make_single_communicator();
  const auto own = forward_of(model, *alone, 1);
  CHECK_THROWS_WITH(forward_of(model, *alone, 1, at::stack(own.probe.experts_NK).narrow(0, 0, 2)),
                    Catch::Contains("experts of 2 layers, the model has 3"));
}
