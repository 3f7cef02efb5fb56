#include "trainer/conversion/hf_classes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace olmoe {
namespace {

constexpr std::array kClasses{
    HfClass{.architecture = "LlamaForCausalLM", .model_type = "llama", .experts = false},
    HfClass{.architecture = "OlmoeForCausalLM", .model_type = "olmoe", .qk_norm = QkNorm::full, .clips = true},
    HfClass{.architecture = "FlexOlmoForCausalLM",
            .model_type = "flex_olmo",
            .qk_norm = QkNorm::full,
            .norm_position = NormPosition::post,
            .rope_theta = 500000.0},
    HfClass{.architecture = "Qwen3MoeForCausalLM",
            .model_type = "qwen3_moe",
            .qk_norm = QkNorm::per_head_shared,
            .dense_blocks = DenseBlocks::any,
            .windows = Windows::one,
            .experts_key_5 = "num_local_experts",
            .kv_heads = true},
    HfClass{.architecture = "Qwen2MoeForCausalLM",
            .model_type = "qwen2_moe",
            .dense_blocks = DenseBlocks::any,
            .shared_experts = SharedExperts::gated,
            .qkv_bias = true,
            .kv_heads = true},
    HfClass{.architecture = "Dots1ForCausalLM",
            .model_type = "dots1",
            .qk_norm = QkNorm::per_head_shared,
            .router_score = RouterScore::sigmoid,
            .dense_blocks = DenseBlocks::first,
            .shared_experts = SharedExperts::several,
            .windows = Windows::by_block,
            .experts_key = "n_routed_experts",
            .kv_heads = true}};

/// Collects what one class does not compute.
class Unheld {
 public:
  explicit Unheld(const HfClass& hf) : hf_(hf) {}
  /// "the class has", "the class multiplies": of this class.
  void refuse(bool there, std::string_view key, const auto& value, std::string_view why) {
    if (there) problems_.push_back(fmt::format("model.{}: {}: {} {}", key, value, hf_.architecture, why));
  }
  /// Of all classes.
  void refuse_always(bool there, std::string_view key, const auto& value, std::string_view why) {
    if (there) problems_.push_back(fmt::format("model.{}: {}: no class {}", key, value, why));
  }
  std::vector<std::string> take() { return std::move(problems_); }

 private:
  const HfClass& hf_;
  std::vector<std::string> problems_;
};

void check_norms(Unheld& out, const HfClass& hf, const ModelConfig& config) {
  out.refuse_always(config.norm != NormKind::rms, "norm", enum_name(config.norm), "has other norms than RMSNorm");
  out.refuse_always(config.norm_affine != NormAffine::weight, "norm_affine", enum_name(config.norm_affine),
                    "has norms without a weight, or with a bias");
  out.refuse(config.norm_position != hf.norm_position, "norm_position", enum_name(config.norm_position),
             hf.norm_position == NormPosition::pre ? "has norms before attention and feed-forward alone"
                                                   : "has norms after attention and feed-forward alone");
  out.refuse(config.qk_norm != hf.qk_norm, "qk_norm", enum_name(config.qk_norm),
             hf.qk_norm == QkNorm::none   ? "does not normalise queries and keys"
             : hf.qk_norm == QkNorm::full ? "normalises whole queries and keys, with a weight"
                                          : "normalises queries and keys head by head, with one weight for all");
}

void check_attention(Unheld& out, const HfClass& hf, const ModelConfig& config) {
  const auto windows = fmt::format("[{}]", fmt::join(config.attention_windows, ", "));
  std::set<int64_t> different;
  for (const auto& block : config.blocks()) different.insert(block.attention.window);
  out.refuse(hf.windows == Windows::none && config.has_windows(), "attention_windows", windows, "sees all keys");
  out.refuse(hf.windows == Windows::one && different.size() > 1, "attention_windows", windows,
             "has one window for all blocks");
  different.erase(0);
  out.refuse(hf.windows == Windows::by_block && different.size() > 1, "attention_windows", windows,
             "has windows of one size");
  out.refuse_always(std::ranges::count(config.position_embeddings, PositionEmbedding::none) > 0, "position_embeddings",
                    "none", "lacks rotary embedding in a block");
  out.refuse_always(config.scalable_softmax, "scalable_softmax", true, "scales queries by their number of keys");
  out.refuse_always(config.attention_gate, "attention_gate", true, "gates attention");
  out.refuse(config.clip_qkv && !hf.clips, "clip_qkv", config.clip_qkv.value_or(0), "clips nothing");
}

void check_shared_experts(Unheld& out, const HfClass& hf, const ModelConfig& config) {
  const bool gated = hf.shared_experts == SharedExperts::gated;
  if (hf.shared_experts == SharedExperts::none)
    return out.refuse(config.num_shared_experts > 0, "num_shared_experts", config.num_shared_experts, "has none");
  out.refuse(config.num_shared_experts == 0, "num_shared_experts", 0, "has shared experts");
  if (config.num_shared_experts == 0) return;
  out.refuse(config.shared_expert_gate != gated, "shared_expert_gate", config.shared_expert_gate,
             gated ? "gates its shared expert" : "gates no shared expert");
  out.refuse(!gated && config.shared_hidden() % config.expert_width != 0, "shared_expert_width",
             config.shared_expert_width, "has shared experts that are as wide as the others");
}

void check_experts(Unheld& out, const HfClass& hf, const ModelConfig& config) {
  const bool sigmoid = hf.router_score == RouterScore::sigmoid;
  out.refuse_always(config.experts_choose(), "routing", enum_name(config.routing),
                    "lets experts choose tokens, which looks ahead and cannot generate");
  out.refuse_always(config.latent_dim > 0, "latent_dim", config.latent_dim,
                    "has experts that work in another width than the model's");
  out.refuse(config.router_score != hf.router_score, "router_score", enum_name(config.router_score),
             fmt::format("has {} alone", enum_name(hf.router_score)));
  out.refuse(config.score_scale != 1 && !sigmoid, "score_scale", config.score_scale, "does not multiply scores");
  out.refuse_always(config.gate != Gate::score, "gate", enum_name(config.gate),
                    "multiplies an expert's output by anything but its score");
  out.refuse(config.balancing_bias != ExpertBias::none && !(sigmoid && config.balancing_bias == ExpertBias::loss_free),
             "balancing_bias", enum_name(config.balancing_bias),
             sigmoid ? "adds a bias to scores alone" : "chooses by scores alone");
  out.refuse(sigmoid && config.num_experts < 2, "num_experts", config.num_experts, "ranks at least two");
  check_shared_experts(out, hf, config);
  if (hf.dense_blocks == DenseBlocks::none) {
    out.refuse(config.dense_layers > 0, "dense_layers", config.dense_layers, "has experts in every block");
    out.refuse(config.moe_every > 1, "moe_every", config.moe_every, "has experts in every block");
  }
  out.refuse(hf.dense_blocks == DenseBlocks::first &&
                 leading_dense_blocks(config) + config.num_moe_layers() < config.num_layers,
             "moe_every", config.moe_every, "has experts in every block after the first dense ones");
}

}  // namespace

std::span<const HfClass> hf_classes() { return kClasses; }

std::string expert_width_key(const HfClass& hf) {
  return hf.dense_blocks == DenseBlocks::none ? "intermediate_size" : "moe_intermediate_size";
}

int64_t leading_dense_blocks(const ModelConfig& config) {
  int64_t count = 0;
  while (count < config.num_layers && !config.is_moe_layer(count)) ++count;
  return count;
}

std::vector<std::string> unheld_by(const HfClass& hf, const ModelConfig& config) {
  Unheld out(hf);
  check_norms(out, hf, config);
  out.refuse_always(config.embedding_scale != 1, "embedding_scale", config.embedding_scale,
                    "multiplies embedded tokens");
  out.refuse_always(config.embedding_norm, "embedding_norm", true, "normalises embedded tokens");
  check_attention(out, hf, config);
  if (hf.experts) check_experts(out, hf, config);
  out.refuse_always(!config.layer_widths.empty(), "layer_widths",
                    fmt::format("[{}]", fmt::join(config.layer_widths, ", ")), "has a width for each block");
  out.refuse_always(config.capacity_factor.has_value(), "capacity_factor", config.capacity_factor.value_or(0),
                    "drops assignments");
  out.refuse_always(config.capacity_order != CapacityOrder::position, "capacity_order",
                    enum_name(config.capacity_order), "drops assignments");
  return out.take();
}

}  // namespace olmoe
