// One rank's optimizer, whose gradients a test sets.
#pragma once
#include "model/init.h"
#include "support/model_fixtures.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/weights.h"

namespace olmoe::test {

/// Of the tiny model, in float64.
struct TestOptimizer {
  explicit TestOptimizer(const OptimizerConfig& config_)
      : config(config_),
        world(make_single_communicator()),
        mesh(*world, {}),
        runner(make_stages(model, mesh), mesh, runner_options(at::kDouble)),
        optimizer(runner.units(), config) {
    fill_weights(runner.units(), random_init(model, 1));
  }
  FlatParams weights() const { return whole_params(runner, &ShardedUnit::shard); }
  void set_grads(const FlatParams& grads) {
    for (const auto& unit : runner.units())
      for (const auto& slice : unit->slices())
        unit->grad.narrow(0, slice.offset, slice.end - slice.begin).copy_(grads.at(slice.name));
  }

  const ModelConfig model = tiny_model();
  const OptimizerConfig config;
  std::unique_ptr<Communicator> world;
  DeviceMesh mesh;
  StageRunner runner;
  Optimizer optimizer;
};

}  // namespace olmoe::test
