#pragma once
#include <array>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"

namespace olmoe {

enum class NormKind { rms, layer };
enum class NormAffine { none, weight, weight_and_bias };
enum class NormPosition { pre, post, both };
enum class InitMethod { normal, mitchell, megatron, full_megatron };

template <>
struct EnumNames<NormKind> {
  static constexpr std::array names{"rms", "layer"};
};
template <>
struct EnumNames<NormAffine> {
  static constexpr std::array names{"none", "weight", "weight_and_bias"};
};
template <>
struct EnumNames<NormPosition> {
  static constexpr std::array names{"pre", "post", "both"};
};
template <>
struct EnumNames<InitMethod> {
  static constexpr std::array names{"normal", "mitchell", "megatron", "full_megatron"};
};

/// Variants of a block and of what is outside of the blocks. Defaults are those of OLMoE-1B-7B (arXiv 2409.02060).
struct BlockVariants {
  NormKind norm = NormKind::rms;
  NormAffine norm_affine = NormAffine::weight;
  NormPosition norm_position = NormPosition::pre;
  bool attention_gate = false;
  double embedding_scale = 1.0;
  bool embedding_norm = false;
  bool tie_embeddings = false;
  double output_z_weight = 0.0;
  InitMethod init = InitMethod::normal;

  template <class V>
  void fields(V& v) {
    v("norm", norm, "norm of the blocks, of the embedding and before the head; layer: LayerNorm");
    v("norm_affine", norm_affine, "what the norm learns: nothing, a weight, or for LayerNorm a weight and a bias");
    v("norm_position", norm_position,
      "where a block has its norms; pre: before attention and feed-forward; post: after them, before the residual sum; "
      "both: before and after");
    v("attention_gate", attention_gate,
      "multiply the attended values by the sigmoid of one more projection of the normed input, before the output "
      "projection");
    v("embedding_scale", embedding_scale, above(0, 1e6), "factor of the embedded tokens, such as sqrt(d_model)");
    v("embedding_norm", embedding_norm, "a norm of the embedded tokens, after embedding_scale");
    v("tie_embeddings", tie_embeddings, "the head computes with the weight of the embedding");
    v("output_z_weight", output_z_weight, at_least(0),
      "weight of mean(logsumexp^2) of the output logits, over target tokens");
    v("init", init,
      "standard deviation of initial weights; normal: init_std; mitchell: 1/sqrt(inputs), and for the l-th block's "
      "output projections 1/sqrt(2 l inputs); megatron: init_std, and for output projections init_std/sqrt(2 "
      "num_layers); full_megatron: the same, and 1/sqrt(d_model) for the head");
  }

  bool has_pre_norms() const { return norm_position != NormPosition::post; }
  bool has_post_norms() const { return norm_position != NormPosition::pre; }
  /// Whether kernels/ has the norm; else it is composed of ATen's operators.
  bool has_norm_kernel() const { return norm == NormKind::rms && norm_affine == NormAffine::weight; }
};

/// Problems that span fields, each "key: what is wrong". Empty: valid.
std::vector<std::string> problems_of(const BlockVariants& variants);

}  // namespace olmoe
