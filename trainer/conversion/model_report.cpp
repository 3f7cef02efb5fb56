#include "trainer/conversion/model_report.h"

#include <fmt/ranges.h>

#include <map>

#include "core/text.h"

namespace olmoe {
namespace {

std::string describe_model(const ModelConfig& model) {
  const auto width = [&](int64_t usual) {
    return model.layer_widths.empty() ? fmt::format("width {}", usual) : "a width for each block";
  };
  const auto feed_forward = model.has_experts()
                                ? fmt::format("top {} of {} experts of {} in {}", model.top_k, model.num_experts,
                                              width(model.expert_width), counted(model.num_moe_layers(), "block"))
                                : fmt::format("dense feed-forward of {}", width(model.dense_hidden()));
  return fmt::format("{} blocks, width {}, {} heads ({} of keys and values), vocabulary {}, {}", model.num_layers,
                     model.d_model, model.num_heads, model.num_kv_heads, model.vocab_size, feed_forward);
}

/// The keys of `model` whose values are not their defaults, and that describe_model() does not name: "norm: layer".
std::vector<std::string> changed_keys(const ModelConfig& model) {
  ModelConfig defaults;
  defaults.ffn = model.ffn;
  defaults.vocab_size = model.vocab_size;
  defaults.d_model = model.d_model;
  defaults.num_layers = model.num_layers;
  defaults.num_heads = model.num_heads;
  defaults.num_kv_heads = model.num_kv_heads;
  defaults.num_experts = model.num_experts;
  defaults.top_k = model.top_k;
  defaults.expert_width = model.expert_width;
  auto keys = differing_fields(defaults, model);
  for (auto& key : keys) {  // "norm: rms -> layer"
    const auto value = key.find(": ") + 2, arrow = key.find(" -> ", value);
    key.erase(value, arrow + 4 - value);
  }
  return keys;
}

/// Number, elements and bytes of the tensors of a kind.
struct Total {
  int64_t tensors = 0, elements = 0, bytes = 0;
  safetensors::Dtype dtype = safetensors::Dtype::f32;
};

}  // namespace

std::string describe(const SavedModel& model, bool list_tensors) {
  std::map<std::string, Total> kinds;
  for (const auto& tensor : model.tensors) {
    auto& total = kinds[fmt::format("{} ({})", tensor.kind, safetensors::name(tensor.dtype))];
    ++total.tensors, total.elements += tensor.numel;
    total.bytes += tensor.numel * safetensors::size_bytes(tensor.dtype);
  }
  auto out = fmt::format("{}\n  {}\n  model: {}\n", model.folder,
                         model.manifest ? "checkpoint of this program" : "Hugging Face folder",
                         describe_model(model.config.model));
  if (const auto keys = changed_keys(model.config.model); !keys.empty())
    out += fmt::format("  variants: {}\n", fmt::join(keys, ", "));
  if (const auto& manifest = model.manifest) {
    out += fmt::format("  step {}, {} tokens\n", grouped(manifest->step), grouped(manifest->tokens));
    for (const auto& [key, value] : manifest->made_by) out += fmt::format("  made by: {}: {}\n", key, value);
    for (const auto& file : manifest->files)
      out += fmt::format(
          "  file {}: {}, {}\n", file.name, describe_size(file.size_bytes),
          file.block_hashes.empty() ? "hashed whole" : counted(std::ssize(file.block_hashes), "hashed block"));
  }
  for (const auto& [kind, total] : kinds)
    out += fmt::format("  {}: {}, {} elements, {}\n", kind, counted(total.tensors, "tensor"), grouped(total.elements),
                       describe_size(total.bytes));
  if (list_tensors)
    for (const auto& tensor : model.tensors)
      out += fmt::format("    {} {} {} {}\n", tensor.kind, tensor.name, safetensors::name(tensor.dtype), tensor.numel);
  return out;
}

}  // namespace olmoe
