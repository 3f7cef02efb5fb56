#include "trainer/conversion/hf_export.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/files/files.h"
#include "trainer/conversion/hf_config.h"
#include "trainer/conversion/hf_names.h"
#include "trainer/conversion/param_stream.h"

namespace olmoe {
namespace {

using nlohmann::json;

/// The name of a dtype in a config.json.
std::string torch_name(safetensors::Dtype dtype) {
  switch (dtype) {
    case safetensors::Dtype::f32:
      return "float32";
    case safetensors::Dtype::bf16:
      return "bfloat16";
    case safetensors::Dtype::f16:
      return "float16";
    default:
      throw Error(fmt::format("Hugging Face weights are not written as {}", safetensors::name(dtype)));
  }
}

using Shard = std::vector<HfTensor>;

/// Of a tensor in files of `weights`.
safetensors::Dtype dtype_of(const HfTensor& tensor, safetensors::Dtype weights) {
  return tensor.buffer ? safetensors::Dtype::f32 : weights;
}

int64_t bytes_of(const HfTensor& tensor, safetensors::Dtype weights) {
  return numel_of(tensor.shape) * safetensors::size_bytes(dtype_of(tensor, weights));
}

/// The tensors in order, divided into files of at most `max_bytes`, but of one tensor at least.
std::vector<Shard> divide(std::vector<HfTensor> tensors, safetensors::Dtype dtype, int64_t max_bytes) {
  std::vector<Shard> shards;
  int64_t room = 0;
  for (auto& tensor : tensors) {
    const int64_t bytes = bytes_of(tensor, dtype);
    if (shards.empty() || bytes > room) shards.emplace_back(), room = max_bytes;
    room -= bytes;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

std::string file_name(size_t shard, size_t count) {
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, count);
}

void write_json(const std::string& path, const json& object) { write_text_atomic(path, object.dump(2) + "\n"); }

void write_index(const std::string& folder, const std::vector<Shard>& shards, int64_t all_bytes) {
  json map = json::object();
  int64_t numel = 0;
  for (size_t i = 0; i < shards.size(); ++i)
    for (const auto& tensor : shards[i]) {
      map[tensor.hf_name] = file_name(i, shards.size());
      numel += numel_of(tensor.shape);
    }
  write_json(folder + "/model.safetensors.index.json",
             {{"metadata", {{"total_parameters", numel}, {"total_size", all_bytes}}}, {"weight_map", map}});
}

}  // namespace

int64_t hf_weight_bytes(const HfForm& form, safetensors::Dtype dtype) {
  int64_t bytes = 0;
  for (const auto& tensor : hf_tensors(form.config)) bytes += bytes_of(tensor, dtype);
  return bytes;
}

void write_hf_model(const std::string& folder, const HfForm& form, const HfExport& options, const Progress& progress) {
  const int64_t all_bytes = hf_weight_bytes(form, options.dtype);
  write_json(folder + "/config.json",
             hf_config_json(form, options.max_positions, torch_name(options.dtype), options.ids));
  write_json(folder + "/generation_config.json", hf_generation_json(options.ids));
  const auto shards = divide(hf_tensors(form.config), options.dtype, options.max_shard_bytes);
  ParamStream stream(form.weights, all_bytes, progress);
  for (size_t i = 0; i < shards.size(); ++i) {
    std::vector<safetensors::Item> items;
    for (const auto& tensor : shards[i])
      items.push_back(
          stream.item({tensor.hf_name, tensor.shape, tensor.name, tensor.first}, dtype_of(tensor, options.dtype)));
    safetensors::write(folder + "/" + file_name(i, shards.size()), std::move(items), {{"format", "pt"}});
  }
  if (shards.size() > 1) write_index(folder, shards, all_bytes);
}

}  // namespace olmoe
