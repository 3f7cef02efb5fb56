#include "trainer/conversion/weights_checkpoint.h"

#include <vector>

#include "core/version.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/conversion/param_stream.h"

namespace olmoe {
namespace {

Manifest manifest_of(const WeightsCheckpoint& checkpoint) {
  Manifest manifest;
  manifest.config = write_config(checkpoint.config);
  manifest.made_by = checkpoint.made_by;
  manifest.made_by["version"] = kVersion;
  manifest.made_by["git_commit"] = kGitCommit;
  return manifest;
}

struct Tensor {
  const char* kind;
  WholeParam values;
};

std::vector<Tensor> tensors_of(const WeightsCheckpoint& checkpoint) {
  std::vector<Tensor> out;
  for (auto& param : whole_params(checkpoint.config.model)) out.push_back({"weight", std::move(param)});
  for (const auto& buffer : checkpoint.buffers) out.push_back({"buffer", buffer});
  return out;
}

/// Tensors in order, divided into files of at least `shard_bytes`, but for the last.
std::vector<std::vector<Tensor>> divide(const WeightsCheckpoint& checkpoint, int64_t shard_bytes) {
  std::vector<std::vector<Tensor>> shards;
  int64_t bytes = shard_bytes;
  for (auto& tensor : tensors_of(checkpoint)) {
    if (bytes >= shard_bytes) shards.emplace_back(), bytes = 0;
    bytes += tensor.values.numel * safetensors::size_bytes(checkpoint.dtype);
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

}  // namespace

int64_t weight_bytes(const WeightsCheckpoint& checkpoint) {
  int64_t numel = 0;
  for (const auto& tensor : tensors_of(checkpoint)) numel += tensor.values.numel;
  return numel * safetensors::size_bytes(checkpoint.dtype);
}

void write_weights_checkpoint(const std::string& folder, const WeightsCheckpoint& checkpoint, const Progress& progress,
                              int64_t shard_bytes) {
  auto manifest = manifest_of(checkpoint);
  ParamStream stream(checkpoint.weights, weight_bytes(checkpoint), progress);
  const auto shards = divide(checkpoint, shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i) {
    std::vector<safetensors::Item> items;
    for (const auto& [kind, values] : shards[i])
      items.push_back(
          stream.item({fmt::format("{}:{}:0", kind, values.name), {values.numel}, values.name, 0}, checkpoint.dtype));
    const auto name = shard_name(static_cast<int>(i));
    const auto written = safetensors::write(folder + "/" + name, std::move(items), {{"format", "olmoe-shard"}});
    manifest.files.push_back(
        {name, written.size_bytes, written.header_bytes, written.header_hash, written.block_hashes});
  }
  manifest.write(folder);
}

}  // namespace olmoe
