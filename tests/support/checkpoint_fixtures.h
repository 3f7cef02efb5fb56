// What tests of checkpoints share: trained state whose every element is known, saved and loaded.
#pragma once
#include <set>

#include "core/random.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/checkpoint/checkpointer.h"

namespace olmoe::test {

/// The trained state of a tiny model on a rank; every element has a value known from its name and
/// place.
class TrainedState {
 public:
  TrainedState(Communicator& world, const std::string& folder, int64_t keep = 0)
      : TrainedState(world, folder, {1, world.size(), 1}, {.retention = Checkpointer::keeping(keep)}) {}
  TrainedState(Communicator& world, const std::string& folder, MeshShape shape, Checkpointer::Options options)
      : model_(four_experts()),
        mesh_(world, shape),
        runner_(make_stages(model_, mesh_), mesh_, runner_options(at::kFloat)),
        optimizer_(runner_.units(), optimizer_config_),
        checkpointer(folder, mesh_, std::move(options)) {}

  void fill() {
    each_slice([](at::Tensor part, const at::Tensor& expected) { part.copy_(expected); });
  }
  /// True when every element is the one that `fill` gives.
  bool is_filled() {
    bool equal = true;
    each_slice([&](const at::Tensor& part, const at::Tensor& expected) { equal &= at::equal(part, expected); });
    return equal;
  }
  bool is_zero() {
    bool zero = true;
    for (const auto& tensor : optimizer_.state()) zero &= tensor.flat.count_nonzero().item<int64_t>() == 0;
    return zero;
  }
  /// Sets one element of one kind of state on this rank.
  void spoil(const std::string& kind, double value) {
    for (const auto& tensor : optimizer_.state())
      if (tensor.kind == kind) {
        const auto& slice = tensor.slices.back();
        return at::Tensor(tensor.flat)[slice.offset].fill_(value), void();
      }
  }
  void clear() {
    for (const auto& tensor : optimizer_.state()) at::Tensor(tensor.flat).zero_();
  }
  std::vector<StateTensor> state() const { return optimizer_.state(); }
  void save(int64_t step) { checkpointer.save(manifest_of(step), optimizer_.state()); }
  void begin_save(int64_t step) {
    begin_save_without_waiting(step);
    checkpointer.wait_until_copied();
  }
  void begin_save_without_waiting(int64_t step) {
    checkpointer.begin_save(manifest_of(step), optimizer_.state(), mode);
  }
  void load() {
    const auto latest = checkpointer.latest_step();
    ENSURE(latest.has_value(), "no checkpoint");
    checkpointer.load(checkpointer.read_manifest(*latest), optimizer_.state());
  }

 private:
  static ModelConfig four_experts() {
    auto model = tiny_model();
    model.num_experts = 4;
    return model;
  }
  static Manifest manifest_of(int64_t step) {
    Manifest manifest;
    manifest.step = step;
    manifest.config = "run: {}\n";
    return manifest;
  }
  void each_slice(const std::function<void(at::Tensor, const at::Tensor&)>& visit) {
    for (const auto& tensor : optimizer_.state())
      for (const auto& slice : tensor.slices) {
        const RandomStream stream(1, tensor.kind + slice.name);
        auto expected = at::empty({slice.end - slice.begin}, at::kFloat);
        for (int64_t i = 0; i < expected.numel(); ++i)
          expected.data_ptr<float>()[i] = static_cast<float>(stream.uniform(static_cast<uint64_t>(slice.begin + i)));
        visit(tensor.flat.narrow(0, slice.offset, expected.numel()), expected);
      }
  }

  const ModelConfig model_;
  const OptimizerConfig optimizer_config_;
  DeviceMesh mesh_;
  StageRunner runner_;
  Optimizer optimizer_;

 public:
  Checkpointer checkpointer;
  Checkpointer::Mode mode = Checkpointer::Mode::wait;  // of begin_save()
};

inline void save_on(int ranks, const std::string& folder, int64_t step, int64_t keep = 0) {
  run_ranks(ranks, [&](Communicator& world) {
    TrainedState state(world, folder, keep);
    state.fill();
    state.save(step);
  });
}

/// What a rank that is alone says when it loads, an error with that code; the folder must be as before.
inline std::string refused_by(ExitCode code, const std::string& folder) {
  const auto before = snapshot(folder);
  const auto world = make_single_communicator();
  TrainedState state(*world, folder);
  std::string message = "accepted";
  try {
    state.load();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    message = error.what();
    if (code == ExitCode::checkpoint) CHECK_FALSE(state.is_filled());
  }
  CHECK(snapshot(folder) == before);
  return message;
}

/// The same for a checkpoint that cannot be read: then the state must not be whole either.
inline std::string refusal(const std::string& folder) { return refused_by(ExitCode::checkpoint, folder); }

inline std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

}  // namespace olmoe::test
