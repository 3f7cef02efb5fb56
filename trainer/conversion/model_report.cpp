#include "trainer/conversion/model_report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "core/text.h"

namespace olmoe {
namespace {

/// What is not OLMoE's.
std::string describe_attention(const ModelConfig& model) {
  std::string out;
  if (model.has_windows()) out += fmt::format(" in windows of [{}] keys", fmt::join(model.attention_windows, ", "));
  const auto blocks = model.blocks();
  const auto rotary = std::ranges::count_if(blocks, [](const auto& block) { return block.attention.rotary; });
  if (rotary < model.num_layers) out += fmt::format(", rotary embedding in {}", counted(rotary, "block"));
  if (model.scalable_softmax) out += ", scalable softmax";
  return out;
}

std::string describe_model(const ModelConfig& model) {
  auto feed_forward = model.has_experts() ? fmt::format("top {} of {} experts of width {}", model.top_k,
                                                        model.num_experts, model.expert_width)
                                          : fmt::format("dense feed-forward of width {}", model.dense_hidden());
  if (model.has_experts() && model.latent_dim > 0)
    feed_forward += fmt::format(" on rows of width {}", model.latent_dim);
  if (model.has_experts() && model.num_shared_experts > 0)
    feed_forward += fmt::format(" and {} of width {}", counted(model.num_shared_experts, "shared expert"),
                                model.shared_hidden() / model.num_shared_experts);
  if (model.has_experts() && model.num_moe_layers() < model.num_layers)
    feed_forward += fmt::format(" in {} of them, others dense of width {}", counted(model.num_moe_layers(), "block"),
                                model.dense_hidden());
  return fmt::format("{} blocks, width {}, {} heads ({} of keys and values){}, vocabulary {}, {}", model.num_layers,
                     model.d_model, model.num_heads, model.num_kv_heads, describe_attention(model), model.vocab_size,
                     feed_forward);
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
