// Small config.json files of Hugging Face's classes.
#pragma once
#include <nlohmann/json.hpp>

namespace olmoe::test {

using nlohmann::json;

/// Good configs of the classes: two blocks, and 8 experts of width 16 but for Llama.
inline json olmoe_json() {
  return {{"model_type", "olmoe"},
          {"vocab_size", 64},
          {"hidden_size", 32},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-6},
          {"intermediate_size", 16},
          {"num_experts", 8},
          {"num_experts_per_tok", 3},
          {"norm_topk_prob", true},
          {"clip_qkv", 4.0},
          {"rope_theta", 5000.0},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"rope_scaling", nullptr},
          {"tie_word_embeddings", false}};
}
inline json llama_json() {
  auto config = olmoe_json();
  config["model_type"] = "llama";
  for (const char* key : {"num_experts", "num_experts_per_tok", "norm_topk_prob", "clip_qkv"}) config.erase(key);
  return config;
}

inline json qwen2_json() {
  auto config = olmoe_json();
  config.merge_patch({{"model_type", "qwen2_moe"},
                      {"qkv_bias", false},
                      {"intermediate_size", 40},
                      {"moe_intermediate_size", 16},
                      {"shared_expert_intermediate_size", 24},
                      {"clip_qkv", nullptr}});
  return config;
}
inline json qwen3_json() {
  auto config = qwen2_json();
  config.merge_patch(
      {{"model_type", "qwen3_moe"}, {"qkv_bias", nullptr}, {"shared_expert_intermediate_size", nullptr}});
  return config;
}
inline json dots1_json() {
  auto config = qwen3_json();
  config.merge_patch({{"model_type", "dots1"},
                      {"num_experts", nullptr},
                      {"n_routed_experts", 8},
                      {"n_shared_experts", 2},
                      {"n_group", 1},
                      {"topk_group", 1},
                      {"first_k_dense_replace", 1},
                      {"routed_scaling_factor", 2.5}});
  return config;
}

}  // namespace olmoe::test
