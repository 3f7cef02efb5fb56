// Models that Hugging Face's classes hold.
#pragma once
#include <functional>
#include <map>
#include <string>

#include "model/config.h"

namespace olmoe::test {

/// What makes the tiny model one of each class.
inline std::map<std::string, std::function<void(ModelConfig&)>> hf_models() {
  return {{"LlamaForCausalLM", [](ModelConfig& m) { m.ffn = Ffn::dense, m.qk_norm = QkNorm::none; }},
          {"OlmoeForCausalLM", [](ModelConfig& m) { m.clip_qkv = 4, m.renormalize_scores = true; }},
          {"FlexOlmoForCausalLM", [](ModelConfig& m) { m.norm_position = NormPosition::post; }},
          {"Qwen3MoeForCausalLM",
           [](ModelConfig& m) {
             m.qk_norm = QkNorm::per_head_shared;
             m.num_layers = 5, m.dense_layers = 1, m.moe_every = 2, m.dense_width = 20;
             m.attention_windows = {4};
           }},
          {"Qwen2MoeForCausalLM",
           [](ModelConfig& m) {
             m.qk_norm = QkNorm::none;
             m.num_shared_experts = 2, m.shared_expert_width = 7, m.shared_expert_gate = true;
             m.moe_every = 3;
           }},
          {"Dots1ForCausalLM", [](ModelConfig& m) {
             m.qk_norm = QkNorm::per_head_shared;
             m.router_score = RouterScore::sigmoid, m.score_scale = 2.5;
             m.balancing_bias = ExpertBias::loss_free;
             m.num_shared_experts = 2, m.dense_layers = 1;
             m.attention_windows = {4, 0};
           }}};
}

}  // namespace olmoe::test
