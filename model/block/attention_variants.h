#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"

namespace olmoe {

/// How a block knows the positions of tokens; none: by the causal mask alone (NoPE, arXiv 2305.19466).
enum class PositionEmbedding { rotary, none };

template <>
struct EnumNames<PositionEmbedding> {
  static constexpr std::array names{"rotary", "none"};
};

/// Attention of a block.
struct AttentionSpec {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t window = 0;  ///< keys that a query sees, its own included; 0: all
  bool rotary = true;

  /// The window, where it hides a key of sequences of so many positions; 0: none does.
  int64_t window_in(int64_t positions) const { return window < positions ? window : 0; }
  /// Keys that a query sees in the mean, the diagonal by half: S/2 without a window.
  double mean_keys(int64_t positions) const;
  /// The same if the causal mask hid none: S, or the window.
  int64_t most_keys(int64_t positions) const { return window_in(positions) > 0 ? window : positions; }
};

/// Variants of attention. Lists are patterns over the blocks in order, repeated; an empty one is the default.
struct AttentionVariants {
  std::vector<int64_t> attention_windows = {};
  std::vector<PositionEmbedding> position_embeddings = {};
  bool scalable_softmax = false;

  template <class V>
  void fields(V& v) {
    v("attention_windows", attention_windows,
      "sliding-window attention: keys that a query sees, its own included, in each block, repeated over the blocks; 0: "
      "all; [4096, 4096, 4096, 0]: every fourth block sees all; []: all blocks do");
    v("position_embeddings", position_embeddings,
      "position embedding of each block, repeated over the blocks; none: no rotary embedding; [rotary, rotary, rotary, "
      "none]: every fourth block has none; []: all are rotary");
    v("scalable_softmax", scalable_softmax,
      "multiply queries by s ln(n), with n the keys that the query sees and s learned for each query head, at first 1");
  }

  /// Keys that a query of block `layer`, counted from 0, sees; 0: all.
  int64_t attention_window(int64_t layer) const {
    return attention_windows.empty() ? 0 : attention_windows[static_cast<size_t>(layer) % attention_windows.size()];
  }
  bool is_rotary(int64_t layer) const {
    return position_embeddings.empty() ||
           position_embeddings[static_cast<size_t>(layer) % position_embeddings.size()] == PositionEmbedding::rotary;
  }
  bool has_windows() const;
};

/// Problems of a model of so many blocks, each "key: what is wrong". Empty: valid.
std::vector<std::string> problems_of(const AttentionVariants& variants, int64_t num_layers);

}  // namespace olmoe
