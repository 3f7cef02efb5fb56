#pragma once
#include <cstdint>

#include "model/config.h"

namespace olmoe {

/// Parameters of a model. "Active" counts top_k of num_experts experts, and the whole router; of experts that blocks
/// share what different choices in all of them would reach, at most all.
struct ParameterCounts {
  int64_t total;
  int64_t active;
  /// That a token is multiplied by: the active ones in each block that uses them, without the lookup of the embedding.
  int64_t multiplied;
};
ParameterCounts count_parameters(const ModelConfig& config);

/// Training FLOPs of a token: 6 x the parameters that it is multiplied by, plus attention, forward and backward.
/// Peers differ in whether the causal mask halves attention, so both are given. Windows are counted, documents are not:
/// each sequence is taken to be one.
struct FlopsPerToken {
  double causal;
  double full_attention;
};
FlopsPerToken count_flops(const ModelConfig& config, int64_t sequence_length);

/// FLOPs of the products of a token's forward pass, whole model, by kind; the backward's are twice as many. Together
/// they are count_flops but for the 6 FLOPs that it counts for each weight of a norm.
struct ForwardFlops {
  double ffn;          ///< experts with the projections of latent ones, or the dense feed-forward
  double projections;  ///< q, k, v, gate and output of attention
  double router;
  double attention;  ///< scores and values, causal
  double head;
  double total() const { return ffn + projections + router + attention + head; }
};
ForwardFlops count_forward_flops(const ModelConfig& config, int64_t sequence_length);

}  // namespace olmoe
