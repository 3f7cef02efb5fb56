#include "trainer/conversion/saved_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/log.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/manifest_config.h"
#include "trainer/config/model_differences.h"
#include "trainer/conversion/hf_checkpoint.h"
#include "trainer/conversion/hf_folder.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

/// The step folder that a path means, or the path itself.
std::string step_folder_of(const std::string& path) {
  if (is_there(fs::path(path) / "manifest.json")) return path;
  for (const auto& folder : {fs::path(path) / "checkpoints", fs::path(path)}) {
    std::error_code unknown;
    if (!fs::is_directory(folder, unknown)) continue;
    if (const auto steps = complete_steps(folder); !steps.empty()) return folder / step_name(steps.back());
  }
  return path;
}

SavedModel open_checkpoint(const std::string& folder, UnknownKeys unknown) {
  auto reader = std::make_shared<CheckpointReader>(folder);
  SavedModel out;
  out.folder = folder;
  out.manifest = reader->manifest();
  auto [config, left_out] = read_manifest_config(*out.manifest, folder, unknown);
  if (!left_out.empty()) log::write_once(log::Level::warn, left_out);
  out.config = std::move(config);
  out.tensors = reader->tensors();
  out.read = [reader](const auto& kind, const auto& name, int64_t begin, at::Tensor to) {
    reader->read(kind, name, begin, to);
  };
  out.verify = [reader](const Progress& progress) { reader->verify_all(progress); };
  return out;
}

/// The sections that a Hugging Face folder says nothing of have their defaults.
Config hf_config(const std::string& folder) {
  constexpr int64_t kPositions = 4096;
  Config config;
  config.run.folder = folder;
  config.train.steps = 1;
  config.model = read_hf_config(folder);
  const auto json = read_hf_json(folder + "/config.json");
  const auto positions = json.find("max_position_embeddings");
  const bool known = positions != json.end() && positions->is_number_integer() && positions->get<int64_t>() > 1;
  config.data.sequence_length = known ? positions->get<int64_t>() : kPositions;
  return config;
}

SavedModel open_hf(const std::string& folder) {
  SavedModel out;
  out.folder = folder;
  out.config = hf_config(folder);
  auto weights = std::make_shared<HfWeights>(folder, out.config.model);
  for (const auto& param : whole_params(out.config.model))
    out.tensors.push_back({"weight", param.name, param.numel, weights->dtype(param.name)});
  for (const auto& tensor : hf_tensors(out.config.model))
    if (tensor.buffer)
      out.tensors.push_back({"buffer", tensor.name, numel_of(tensor.shape), weights->dtype(tensor.name)});
  out.read = [weights](const auto&, const auto& name, int64_t begin, at::Tensor to) { weights->read(name, begin, to); };
  return out;
}

}  // namespace

ParamSource SavedModel::weights() const {
  return [from = read](const std::string& name, int64_t begin, at::Tensor out) { from("weight", name, begin, out); };
}

std::vector<WholeParam> SavedModel::buffers() const {
  std::vector<WholeParam> out;
  for (const auto& tensor : tensors)
    if (tensor.kind == "buffer") out.push_back({tensor.name, {tensor.numel}, tensor.numel});
  return out;
}

ParamSource SavedModel::values() const {
  std::set<std::string> names;
  for (const auto& buffer : buffers()) names.insert(buffer.name);
  return [from = read, names](const std::string& name, int64_t begin, at::Tensor out) {
    from(names.contains(name) ? "buffer" : "weight", name, begin, out);
  };
}

safetensors::Dtype SavedModel::master_dtype() const {
  const bool doubles = std::ranges::any_of(tensors, [](const SavedTensor& tensor) {
    return tensor.kind == "weight" && tensor.dtype == safetensors::Dtype::f64;
  });
  return doubles ? safetensors::Dtype::f64 : safetensors::Dtype::f32;
}

SavedModel open_model(const std::string& path, UnknownKeys unknown) {
  if (is_there(fs::path(path) / "config.json")) return open_hf(path);
  const auto folder = step_folder_of(path);
  if (is_there(fs::path(folder) / "manifest.json")) return open_checkpoint(folder, unknown);
  ensure_hf_folder(path);  // says what it is instead
  throw CheckpointError(path + ": neither a checkpoint nor a Hugging Face folder");
}

ParamSource checkpoint_source(const std::string& step_folder, const ModelConfig& wanted, UnknownKeys unknown) {
  const auto saved = open_checkpoint(step_folder, unknown);
  if (const auto differences = model_differences(saved.config.model, wanted); !differences.empty())
    throw ConfigError(fmt::format("{} has the weights of another model than this config:\n  {}", step_folder,
                                  fmt::join(differences, "\n  ")));
  return saved.weights();
}

}  // namespace olmoe
