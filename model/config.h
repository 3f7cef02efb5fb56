#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"
#include "model/block/attention_variants.h"
#include "model/block/block_variants.h"
#include "model/block/expert_variants.h"

namespace olmoe {

enum class Ffn { moe, dense };
enum class QkNorm { none, full, non_affine, per_head, per_head_shared };
enum class BalanceGranularity { micro_batch, sequence, global, step, previous_step };
enum class RouterScore { softmax, sigmoid };
enum class Gate { score, constant };
enum class ExpertBias { none, loss_free, quantile };
enum class RouterDtype { float32, compute };

template <>
struct EnumNames<Ffn> {
  static constexpr std::array names{"moe", "dense"};
};
template <>
struct EnumNames<QkNorm> {
  static constexpr std::array names{"none", "full", "non_affine", "per_head", "per_head_shared"};
  static constexpr std::array renamed{RenamedKey{"false", "none"}, RenamedKey{"true", "full"}};
};
template <>
struct EnumNames<BalanceGranularity> {
  static constexpr std::array names{"micro_batch", "sequence", "global", "step", "previous_step"};
};
template <>
struct EnumNames<RouterScore> {
  static constexpr std::array names{"softmax", "sigmoid"};
};
template <>
struct EnumNames<Gate> {
  static constexpr std::array names{"score", "constant"};
};
template <>
struct EnumNames<ExpertBias> {
  static constexpr std::array names{"none", "loss_free", "quantile"};
};
template <>
struct EnumNames<RouterDtype> {
  static constexpr std::array names{"float32", "compute"};
};

struct BlockSpec {
  AttentionSpec attention;
  FeedForwardSpec feed_forward;
};

/// Architecture, initialization and losses of the model. Defaults are OLMoE-1B-7B (arXiv 2409.02060).
struct ModelConfig : BlockVariants, AttentionVariants, ExpertVariants {
  Ffn ffn = Ffn::moe;
  int64_t vocab_size = 50304;
  int64_t d_model = 2048;
  int64_t num_layers = 16;
  int64_t num_heads = 16;
  int64_t num_kv_heads = 16;
  int64_t num_experts = 64;
  int64_t top_k = 8;
  int64_t expert_width = 1024;
  int64_t dense_width = 0;
  QkNorm qk_norm = QkNorm::full;
  int64_t dense_layers = 0;
  int64_t moe_every = 1;
  int64_t num_shared_experts = 0;
  int64_t shared_expert_width = 0;
  bool shared_expert_gate = false;
  RouterScore router_score = RouterScore::softmax;
  bool renormalize_scores = false;
  double score_scale = 1.0;
  Gate gate = Gate::score;
  std::optional<double> clip_qkv;
  double rope_theta = 10000.0;
  double norm_eps = 1e-5;
  RouterDtype router_dtype = RouterDtype::float32;
  double load_balancing_weight = 0.01;
  BalanceGranularity load_balancing_granularity = BalanceGranularity::micro_batch;
  bool load_balancing_over_layers = false;
  ExpertBias balancing_bias = ExpertBias::none;
  std::optional<double> balancing_bias_rate;
  double router_z_weight = 0.001;
  double init_std = 0.02;
  std::optional<double> init_cutoff = 3.0;
  int64_t loss_chunk = 1024;

  template <class V>
  void fields(V& v) {
    v("ffn", ffn, "feed-forward of each block; dense: the dense twin, a model without experts of equal active size");
    v("vocab_size", vocab_size, {1, 1 << 24}, "rows of embedding and head, V; padding rows included");
    v("d_model", d_model, {1, 1 << 17}, "model width, D");
    v("num_layers", num_layers, {1, 1 << 10}, "blocks, L");
    v("num_heads", num_heads, {1, 1 << 14}, "query heads, H; each D/H wide");
    v("num_kv_heads", num_kv_heads, {1, 1 << 14}, "key and value heads; divides num_heads");
    v("num_experts", num_experts, {1, 1 << 14}, "experts of a block, E");
    v("top_k", top_k, {1, 1 << 14}, "experts that each token chooses, K");
    v("expert_width", expert_width, {1, 1 << 17}, "hidden width of one expert, F");
    ExpertVariants::fields(v);
    v("dense_width", dense_width, {0, 1 << 24},
      "hidden width of a dense feed-forward, in the dense twin and in dense_layers; 0: what a token uses of experts, "
      "top_k x expert_width and the shared ones");
    v("dense_layers", dense_layers, {0, 1 << 10}, "first blocks whose feed-forward is dense although ffn is moe");
    v("moe_every", moe_every, {1, 1 << 10},
      "after dense_layers every n-th block has experts, the last of each n; the others are dense");
    v("num_shared_experts", num_shared_experts, {0, 1 << 10}, "experts of a block that every token uses, beside the K");
    v("shared_expert_width", shared_expert_width, {0, 1 << 20}, "hidden width of a shared expert; 0: expert_width");
    v("shared_expert_gate", shared_expert_gate,
      "multiply the shared experts' output by the sigmoid of one more linear product of the token");
    v("qk_norm", qk_norm,
      "RMSNorm of queries and keys; full: of the whole vectors before the head split; non_affine: the same without a "
      "weight; per_head: of each head, with its own weight; per_head_shared: with one weight for all heads");
    v("router_score", router_score, "scores of the experts from the router's logits; sigmoid: each by itself");
    v("renormalize_scores", renormalize_scores, "divide the chosen scores by their sum");
    v("score_scale", score_scale, above(0, 1e6), "factor of the chosen scores");
    v("gate", gate,
      "factor of an expert's output; score: its score; constant: score_scale alone, so that no gradient of the output "
      "reaches the router");
    v("clip_qkv", clip_qkv, above(0), "clamp queries, keys and values to +- this; null: off");
    v("rope_theta", rope_theta, above(0), "base of the rotary frequencies");
    AttentionVariants::fields(v);
    v("norm_eps", norm_eps, above(0), "epsilon of every norm");
    v("router_dtype", router_dtype, "dtype of the router's GEMM; its softmax is in at least fp32");
    v("load_balancing_weight", load_balancing_weight, at_least(0), "alpha: weight of the load-balancing loss");
    v("load_balancing_granularity", load_balancing_granularity,
      "tokens whose load is balanced together; global: one micro-batch of every rank; step: all of the optimizer step, "
      "exactly, which with gradient accumulation takes one more forward; previous_step: all of the step before");
    v("load_balancing_over_layers", load_balancing_over_layers,
      "f and p of that loss are of all blocks together, not block by block; takes one more forward in each step");
    v("balancing_bias", balancing_bias,
      "bias of each expert in the choice, not in the scores, updated once a step without a gradient; loss_free: by "
      "balancing_bias_rate toward the mean load; quantile: to what would have balanced the step");
    v("balancing_bias_rate", balancing_bias_rate, above(0, 1e6),
      "loss_free: step of the bias; quantile: share of the new bias in it, at most 1; null: 0.001 and 1");
    v("router_z_weight", router_z_weight, at_least(0), "beta: weight of mean(logsumexp^2) of the router logits");
    v("init_std", init_std, above(0), "standard deviation of initial weights (norm weights start at 1)");
    v("init_cutoff", init_cutoff, above(0),
      "initial weights are truncated at this many standard deviations; null: they are not");
    v("loss_chunk", loss_chunk, {1, 1 << 30}, "tokens of a chunk of the loss: logits exist for one chunk at a time");
    BlockVariants::fields(v);
  }

  /// The blocks in order, derived from the fields above.
  std::vector<BlockSpec> blocks() const;
  /// Whether block `layer`, counted from 0, has experts.
  bool is_moe_layer(int64_t layer) const {
    return ffn == Ffn::moe && layer >= dense_layers && (layer + 1 - dense_layers) % moe_every == 0;
  }
  /// Number of blocks with experts.
  int64_t num_moe_layers() const { return ffn == Ffn::moe ? (num_layers - dense_layers) / moe_every : 0; }
  bool has_experts() const { return num_moe_layers() > 0; }
  int64_t head_dim() const { return d_model / num_heads; }
  int64_t kv_width() const { return num_kv_heads * head_dim(); }
  int64_t qkv_width() const { return d_model + 2 * kv_width(); }
  /// Width of the rows that experts take and give: D, or l. Then how many experts a token may have.
  int64_t expert_dim() const { return latent_dim > 0 ? latent_dim : d_model; }
  int64_t choices() const { return experts_choose() ? num_experts : top_k; }
  /// Hidden width of all shared experts of a block together; then of a dense feed-forward without layer_widths.
  int64_t shared_hidden() const {
    return num_shared_experts * (shared_expert_width > 0 ? shared_expert_width : expert_width);
  }
  int64_t dense_hidden() const { return dense_width > 0 ? dense_width : top_k * expert_width + shared_hidden(); }
  /// Hidden widths of experts that blocks have, each once, in rising order.
  std::vector<int64_t> expert_widths() const;
};

/// Problems of the values, one sentence each, that start with the path of a key under `path`. Empty: valid.
std::vector<std::string> validate(const ModelConfig& config, const std::string& path);

}  // namespace olmoe
