#include "trainer/weights.h"

#include <filesystem>
#include <set>

#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/conversion/hf_checkpoint.h"
#include "trainer/conversion/saved_model.h"

namespace olmoe {

void fill_weights(std::span<const std::unique_ptr<ShardedUnit>> units, const ParamSource& source) {
  for (const auto& unit : units) {
    for (const auto& slice : unit->slices()) {
      auto part = at::empty({slice.end - slice.begin}, unit->shard.options().device(at::kCPU));
      source(slice.name, slice.begin, part);
      unit->shard.narrow(0, slice.offset, part.numel()).copy_(part);
    }
    unit->invalidate();
  }
}

std::vector<StateTensor> saved_state(const Optimizer& optimizer, const StageRunner& runner) {
  auto out = optimizer.state();
  for (auto& buffer : runner.buffers()) out.push_back(std::move(buffer));
  return out;
}

namespace {

/// Reads the slices of a tensor of the state from a CheckpointReader or a SavedModel.
void read_slices(auto& saved, const StateTensor& tensor) {
  for (const auto& slice : tensor.slices) {
    auto part = at::empty({slice.end - slice.begin}, tensor.flat.options().device(at::kCPU));
    saved.read(tensor.kind, slice.name, slice.begin, part);
    at::Tensor(tensor.flat).narrow(0, slice.offset, part.numel()).copy_(part);
  }
}

}  // namespace

void fill_buffers(std::span<const StateTensor> buffers, const std::string& folder) {
  const auto fill = [&](auto&& saved, const std::vector<SavedTensor>& tensors) {
    std::set<std::string> there;
    for (const auto& tensor : tensors)
      if (tensor.kind == "buffer") there.insert(tensor.name);
    for (const auto& buffer : buffers)
      if (there.contains(buffer.slices.front().name)) read_slices(saved, buffer);
  };
  if (buffers.empty() || folder.empty()) return;
  if (!std::filesystem::exists(folder + "/manifest.json")) {
    const auto model = open_model(folder);
    return fill(model, model.tensors);
  }
  CheckpointReader reader(folder);
  fill(reader, reader.tensors());
}

void fill_moments(std::span<const StateTensor> state, const std::string& step_folder) {
  try {
    CheckpointReader reader(step_folder);
    for (const auto& tensor : state)
      if (tensor.kind != "weight" && tensor.kind != "buffer") read_slices(reader, tensor);
  } catch (const CheckpointError& error) {
    throw CheckpointError(
        fmt::format("train.init_optimizer: keep: {} has no moments that can be used: {}", step_folder, error.what()));
  }
}

ParamSource initial_weights(const Config& config, UnknownKeys unknown) {
  const auto& folder = config.train.init_from;
  if (folder.empty()) return random_init(config.model, static_cast<uint64_t>(config.run.seed));
  try {
    if (std::filesystem::exists(folder + "/manifest.json")) return checkpoint_source(folder, config.model, unknown);
    return HfWeights::source(folder, config.model);
  } catch (const CheckpointError& error) {
    throw CheckpointError(fmt::format("train.init_from: {}", error.what()));
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("train.init_from: {}", error.what()));
  }
}

}  // namespace olmoe
