#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/reader/config_reader.h"

namespace olmoe {

/// Which assignments an expert with a capacity keeps: the first ones, or those with the highest scores.
enum class CapacityOrder { position, score };

template <>
struct EnumNames<CapacityOrder> {
  static constexpr std::array names{"position", "score"};
};

/// Who chooses: each token K experts, or each expert its tokens (arXiv 2202.09368).
enum class RoutingMethod { token_choice, expert_choice };
/// Tokens that an expert chooses among.
enum class ChoiceScope { sequence, micro_batch };

template <>
struct EnumNames<RoutingMethod> {
  static constexpr std::array names{"token_choice", "expert_choice"};
};
template <>
struct EnumNames<ChoiceScope> {
  static constexpr std::array names{"sequence", "micro_batch"};
};

/// The feed-forward of a block: experts, or a dense one.
struct FeedForwardSpec {
  int64_t num_experts;  ///< 0: dense
  int64_t top_k;        ///< experts that a token chooses; 1 if dense
  int64_t hidden;       ///< hidden width of an expert, or of the dense feed-forward
  int64_t shared = 0;   ///< hidden width of all shared experts together; 0: there is none
  int64_t latent = 0;   ///< width of the rows that experts take and give; 0: the model's
  bool has_experts() const { return num_experts > 0; }
};

/// Variants of what experts take, and of how wide they are.
struct ExpertVariants {
  bool share_experts = false;
  std::vector<int64_t> layer_widths = {};
  int64_t latent_dim = 0;
  std::optional<double> capacity_factor;
  CapacityOrder capacity_order = CapacityOrder::position;
  RoutingMethod routing = RoutingMethod::token_choice;
  ChoiceScope expert_choice_scope = ChoiceScope::sequence;

  template <class V>
  void fields(V& v) {
    v("layer_widths", layer_widths,
      "hidden width of the feed-forward of each block, a number a block: of each of its experts, or of a dense one, in "
      "the dense twin too; in place of expert_width and dense_width; []: those say it");
    v("share_experts", share_experts,
      "layer-shared experts: all blocks with experts compute with the same ones, each with a router of its own");
    v("latent_dim", latent_dim, {0, 1 << 17},
      "width of the rows that experts take and give, l: tokens are projected down to it before they are dispatched, up "
      "after the weighted sum; at most d_model; 0: experts work in d_model");
    v("capacity_factor", capacity_factor, above(0, 1 << 14),
      "an expert takes this times the mean assignments of a micro-batch and drops the others; null: dropless");
    v("capacity_order", capacity_order,
      "assignments that an expert with a capacity keeps; position: those of the first tokens; score: those with the "
      "highest scores, equal ones of the first tokens");
    v("routing", routing,
      "expert_choice: each expert takes the tokens with its highest scores, top_k / num_experts of them rounded up, so "
      "that a token has 0 to num_experts experts, and which depends on later tokens: not causal");
    v("expert_choice_scope", expert_choice_scope, "tokens that an expert chooses among with routing: expert_choice");
  }

  bool experts_choose() const { return routing == RoutingMethod::expert_choice; }
};

}  // namespace olmoe
