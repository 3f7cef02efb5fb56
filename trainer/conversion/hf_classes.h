#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace olmoe {

/// What a class has beside blocks with experts, by keys of its config.json.
enum class DenseBlocks {
  none,
  first,  ///< first_k_dense_replace
  any     ///< decoder_sparse_step, mlp_only_layers
};
enum class SharedExperts {
  none,
  gated,   ///< one, times a sigmoid: shared_expert_intermediate_size
  several  ///< as wide as the others, as one feed-forward: n_shared_experts
};
enum class Windows {
  none,
  one,      ///< in all blocks: use_sliding_window, sliding_window
  by_block  ///< layer_types, and one sliding_window
};

/// A class of Hugging Face's transformers that holds models of ours: what it computes, and its keys.
struct HfClass {
  std::string_view architecture, model_type;
  bool experts = true;  ///< false: no block has any
  QkNorm qk_norm = QkNorm::none;
  NormPosition norm_position = NormPosition::pre;
  RouterScore router_score = RouterScore::softmax;  ///< sigmoid: with a bias in the choice, and a factor of the scores
  DenseBlocks dense_blocks = DenseBlocks::none;
  SharedExperts shared_experts = SharedExperts::none;
  Windows windows = Windows::none;
  bool clips = false;  ///< has clip_qkv
  const char* experts_key = "num_experts";
  const char* experts_key_5 = nullptr;  ///< its name since version 5, where that is another
  bool qkv_bias = false;                ///< has qkv_bias, on unless it says false
  bool kv_heads = false;                ///< num_key_value_heads has a default that is not num_attention_heads
  double rope_theta = 10000.0;          ///< where config.json has none
};

/// In the order in which a model looks for its class.
std::span<const HfClass> hf_classes();

/// The key of the width of an expert: a class with dense blocks has theirs in intermediate_size.
std::string expert_width_key(const HfClass& hf);

/// Number of dense blocks before the first one with experts.
int64_t leading_dense_blocks(const ModelConfig& config);

/// What of a valid `config` the class does not compute: "model.KEY: VALUE: why", a line each. Empty: it computes that
/// model.
std::vector<std::string> unheld_by(const HfClass& hf, const ModelConfig& config);

}  // namespace olmoe
