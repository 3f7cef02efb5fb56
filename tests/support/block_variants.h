// The variants of the block, and of what is outside of the blocks, that tests of models and runs go through.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "model/config.h"

namespace olmoe::test {

struct BlockVariant {
  std::string name;
  std::function<void(ModelConfig&)> change;
};

inline const std::vector<BlockVariant>& block_variants() {
  static const std::vector<BlockVariant> all{
      {"QK-norm without weights", [](auto& m) { m.qk_norm = QkNorm::non_affine; }},
      {"QK-norm of heads", [](auto& m) { m.qk_norm = QkNorm::per_head; }},
      {"QK-norm of heads with a shared weight, clipped",
       [](auto& m) { m.qk_norm = QkNorm::per_head_shared, m.clip_qkv = 0.8; }},
      {"LayerNorm", [](auto& m) { m.norm = NormKind::layer; }},
      {"LayerNorm with biases, embedding norm",
       [](auto& m) {
         m.norm = NormKind::layer, m.norm_affine = NormAffine::weight_and_bias;
         m.embedding_norm = true;
       }},
      {"LayerNorm without weights, of the first OLMo",
       [](auto& m) { m.norm = NormKind::layer, m.norm_affine = NormAffine::none, m.qk_norm = QkNorm::none; }},
      {"RMSNorm without weights", [](auto& m) { m.norm_affine = NormAffine::none; }},
      {"norms after the branches, of OLMo 2", [](auto& m) { m.norm_position = NormPosition::post; }},
      {"norms before and after", [](auto& m) { m.norm_position = NormPosition::both; }},
      {"LayerNorm before and after", [](auto& m) { m.norm = NormKind::layer, m.norm_position = NormPosition::both; }},
      {"norms after shared experts too",
       [](auto& m) { m.norm_position = NormPosition::post, m.num_shared_experts = 1, m.shared_expert_gate = true; }},
      {"attention gate", [](auto& m) { m.attention_gate = true; }},
      {"embedding scale", [](auto& m) { m.embedding_scale = 4.5; }},
      {"tied embeddings", [](auto& m) { m.tie_embeddings = true; }},
      {"output z-loss", [](auto& m) { m.output_z_weight = 0.3; }},
      {"the successor's outside",
       [](auto& m) {
         m.norm_position = NormPosition::both, m.qk_norm = QkNorm::per_head, m.attention_gate = true;
         m.embedding_scale = 5, m.embedding_norm = true, m.output_z_weight = 0.1;
       }},
      {"all that is tied and scaled",
       [](auto& m) {
         m.tie_embeddings = true, m.embedding_scale = 3, m.embedding_norm = true, m.output_z_weight = 0.2;
         m.norm_affine = NormAffine::none;
       }},
  };
  return all;
}

}  // namespace olmoe::test
