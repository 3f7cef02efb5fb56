// Buffers of stages: equal on all ranks, saved once, loaded on every rank.
#include <atomic>

#include "core/files/safetensors.h"
#include "support/checkpoint_fixtures.h"
#include "support/stage_with_buffer.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// A rank of a model whose blocks have buffers, the second one's in float64.
class Rank {
 public:
  Rank(Communicator& world, MeshShape shape, const std::string& folder, at::IntArrayRef sizes = {2, 3},
       const std::string& name = "blocks.0.bias")
      : mesh_(world, shape),
        runner_(stages(sizes, name), mesh_, runner_options(at::kFloat)),
        optimizer_(runner_.units(), optimizer_config_),
        checkpointer_(folder, mesh_, {}) {}
  void save(double value) {
    for (const auto& buffer : runner_.buffers()) at::Tensor(buffer.flat).copy_(at::arange(6) * value);
    Manifest manifest;
    manifest.step = 1;
    checkpointer_.save(manifest, state());
  }
  void load() { checkpointer_.load(checkpointer_.read_manifest(1), state()); }
  /// Whether the buffers, which are the stages' own memory, hold what save() filled them with.
  bool holds(double value) {
    bool equal = true;
    for (const auto& buffer : runner_.buffers())
      equal &= at::equal(buffer.flat, (at::arange(6) * value).to(buffer.flat.scalar_type()));
    return equal && runner_.buffers().size() == 2;
  }

 private:
  std::vector<std::unique_ptr<Stage>> stages(at::IntArrayRef sizes, const std::string& name) {
    auto out = make_stages(model_, mesh_);
    out[1] = std::make_unique<StageWithBuffer>(std::move(out[1]), name, at::zeros(sizes, at::kFloat));
    out[2] = std::make_unique<StageWithBuffer>(std::move(out[2]), "blocks.1.bias", at::zeros({2, 3}, at::kDouble));
    return out;
  }
  std::vector<StateTensor> state() const { return saved_state(optimizer_, runner_); }

  const ModelConfig model_ = [] {
    auto model = tiny_model();
    model.num_experts = 4;
    return model;
  }();
  const OptimizerConfig optimizer_config_;
  DeviceMesh mesh_;
  StageRunner runner_;
  Optimizer optimizer_;
  Checkpointer checkpointer_;
};

int64_t buffers_in(const std::string& shard) {
  const safetensors::File file(shard);
  int64_t count = 0;
  for (const auto& [name, entry] : file.entries()) count += name.starts_with("buffer:");
  return count;
}

}  // namespace

TEST_CASE("buffers of stages are saved by one rank and loaded on every rank, whatever the mesh") {
  const auto saved_on = GENERATE(MeshShape{1, 1, 1}, MeshShape{1, 2, 1}, MeshShape{1, 2, 2}, MeshShape{2, 2, 1});
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints";
  run_ranks(saved_on.replicate * saved_on.shard,
            [&](Communicator& world) { Rank(world, saved_on, checkpoints).save(0.25); });
  for (int rank = 0; rank < saved_on.shard; ++rank)
    CHECK(buffers_in(fmt::format("{}/step_000000001/shard_{:05}.safetensors", checkpoints, rank)) ==
          (rank == 0 ? 2 : 0));
  for (const int ranks : {1, 2, 3}) {
    std::atomic<int> equal = 0;
    run_ranks(ranks, [&](Communicator& world) {
      Rank rank(world, {1, ranks, 1}, checkpoints);
      const bool before = rank.holds(0.25);
      rank.load();
      equal += !before && rank.holds(0.25);
    });
    CHECK(equal == ranks);
  }
}

TEST_CASE("a checkpoint whose buffers are not those of the model is refused as another model's") {
  TempFolder folder;
  const auto world = make_single_communicator();
  Rank(*world, {}, folder / "checkpoints").save(0.25);
  const auto refused = [&](at::IntArrayRef sizes, const std::string& name) {
    Rank rank(*world, {}, folder / "checkpoints", sizes, name);
    try {
      rank.load();
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refused({2, 3}, "blocks.0.bias") == "accepted");
  CHECK_THAT(refused({2, 2}, "blocks.0.bias"),
             Catch::Contains("the checkpoint has buffer:blocks.0.bias with 6 elements, the model with 4"));
  CHECK_THAT(refused({2, 4}, "blocks.0.bias"), Catch::Contains("the model with 8"));
  const auto renamed = refused({2, 3}, "blocks.0.other");
  CHECK_THAT(renamed, Catch::Contains("the checkpoint has buffer:blocks.0.bias with") &&
                          Catch::Contains("the model does not: the checkpoint is of another model") &&
                          !Catch::Contains("Restore it"));
}

TEST_CASE("buffers of a dtype that a checkpoint does not hold, or of one name, are refused") {
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  const auto model = tiny_model();
  const auto run = [&](const char* name, at::ScalarType dtype) {
    auto stages = make_stages(model, mesh);
    stages[1] = std::make_unique<StageWithBuffer>(std::move(stages[1]), "blocks.0.bias", at::zeros({3}, at::kFloat));
    stages[2] = std::make_unique<StageWithBuffer>(std::move(stages[2]), name, at::zeros({3}, dtype));
    StageRunner(std::move(stages), mesh, runner_options(at::kFloat));
  };
  CHECK_NOTHROW(run("blocks.1.bias", at::kFloat));
  CHECK_THROWS_WITH(run("blocks.1.bias", at::kLong), Catch::Contains("buffer blocks.1.bias is Long"));
  CHECK_THROWS_WITH(run("blocks.0.bias", at::kFloat),
                    Catch::Contains("two buffers of stages are called blocks.0.bias"));
}
