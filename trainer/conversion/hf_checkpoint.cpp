#include "trainer/conversion/hf_checkpoint.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "trainer/config/model_differences.h"
#include "trainer/conversion/hf_config.h"
#include "trainer/conversion/hf_folder.h"

namespace olmoe {
namespace {

std::unique_ptr<safetensors::File> open_shard(const std::string& path) {
  try {
    return std::make_unique<safetensors::File>(path);
  } catch (const Error& error) {
    throw CheckpointError(error.what());
  }
}

}  // namespace

HfWeights::HfWeights(const std::string& folder, const ModelConfig& config) {
  std::map<std::string, const safetensors::File*> found;
  std::vector<std::string> problems;
  for (const auto& path : hf_weight_files(folder)) {
    files_.push_back(open_shard(path));
    for (const auto& [name, entry] : files_.back()->entries())
      if (!found.emplace(name, files_.back().get()).second) problems.push_back(name + " is in two files");
  }
  for (const auto& tensor : hf_tensors(config)) {
    const auto at = found.find(tensor.hf_name);
    if (at == found.end()) {
      problems.push_back(tensor.hf_name + " is missing");
      continue;
    }
    const auto& entry = at->second->entry(tensor.hf_name);
    if (entry.shape != tensor.shape)
      problems.push_back(fmt::format("{} is [{}], expected [{}]", tensor.hf_name, fmt::join(entry.shape, ", "),
                                     fmt::join(tensor.shape, ", ")));
    else
      pieces_.add(tensor.name, tensor.first, entry.dtype, at->second->bytes(tensor.hf_name));
    dtypes_.emplace(tensor.name, entry.dtype);
    found.erase(at);
  }
  for (const auto& [name, file] : found) problems.push_back(name + " is not part of this model");
  constexpr size_t kShown = 20;
  if (problems.empty()) return;
  const auto total = problems.size();
  if (total > kShown) problems.resize(kShown);
  throw CheckpointError(
      fmt::format("{}: {} tensors do not fit the model: {}", folder, total, fmt::join(problems, "; ")));
}

void HfWeights::read(const std::string& name, int64_t begin, const at::Tensor& out) const {
  pieces_.read(name, begin, out);
  for (const auto& file : files_) file->release();
}

ParamSource HfWeights::source(const std::string& folder, const ModelConfig& config) {
  const auto differences = model_differences(read_hf_config(folder, config), config);
  if (!differences.empty())
    throw ConfigError(fmt::format("{}/config.json describes another model than this config:\n  {}", folder,
                                  fmt::join(differences, "\n  ")));
  auto weights = std::make_shared<HfWeights>(folder, config);
  return [weights](const std::string& name, int64_t begin, at::Tensor out) { weights->read(name, begin, out); };
}

}  // namespace olmoe
