// Names of sizes: N tokens of a micro-batch, M tokens that a rank's experts see, D model width, C fused q|k|v width, G
// key/value width, H heads, E experts, K experts a token, F hidden width.
#include "trainer/planner/activation_plan.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/integers.h"
#include "model/stage.h"
#include "trainer/planner/collective_bytes.h"

namespace olmoe {
namespace {

constexpr int64_t kIndex = 4;   // bytes of an expert's id, of a row's place
constexpr int64_t kDouble = 8;  // of a count, of statistics

/// What a plan is made from, the sizes of one block and of the pass.
struct Pass {
  const ModelConfig& model;
  int64_t N, sequences;
  bool travels;             // tokens to experts of other ranks
  int64_t chunks;           // in which they travel; else 1
  bool fused;               // experts: gathering and SwiGLU inside their products
  int64_t M;                // expected: choices fall on all experts alike
  int64_t value, master;    // bytes of a computed value; of statistics, at least fp32
  SavePolicy keep;          // of a graph
  int64_t product_bytes;    // see product_bytes()
  int64_t attention_bytes;  // see attention_backward_bytes()
  bool moe() const { return model.has_experts(); }
};

bool fused_experts(const TrainConfig& train) { return train.expert_kernels == kernels::ExpertKernels::fused; }

/// A GPU makes the gate and up gradients of a rank's experts in bf16 before it adds them to the fp32 ones; of down,
/// half. Fused kernels add in fp32 where the sum stays.
int64_t product_bytes(const Config& config, MeshShape mesh) {
  const auto& m = config.model;
  if (!m.has_experts() || config.train.device == DeviceKind::cpu || fused_experts(config.train)) return 0;
  return m.num_experts / mesh.expert * 2 * m.expert_width * m.d_model * element_bytes(config.train.compute_dtype);
}

/// Of what a library's attention allocates in its backward on a GPU in bf16: elsewhere nothing that is planned.
int64_t attention_backward_bytes(const Config& config, int64_t sequences, int multiprocessors) {
  const auto& train = config.train;
  if (train.device != DeviceKind::cuda || train.compute_dtype != ComputeDtype::bfloat16) return 0;
  const AttentionSize size{sequences, config.data.sequence_length, train.deterministic_attention};
  return train.attention_kernel == kernels::AttentionKernel::cudnn
             ? cudnn_backward_bytes(config.model, size)
             : flash_backward_bytes(config.model, size, multiprocessors);
}

Pass pass_of(const Config& config, MeshShape mesh, int multiprocessors) {
  const auto& train = config.train;
  const int64_t sequences = std::min(train.micro_batch_size, train.global_batch_size);
  const int64_t value = element_bytes(train.compute_dtype), N = sequences * config.data.sequence_length;
  const bool travels = mesh.expert > 1;
  const double to_others = expected_copies(config.model.num_experts, config.model.top_k, mesh.expert);
  const double seen = travels ? to_others * mesh.expert / (mesh.expert - 1) : 1;
  return {.model = config.model,
          .N = N,
          .sequences = sequences,
          .travels = travels,
          .chunks = travels ? config.parallel.expert_chunks : 1,
          .fused = fused_experts(train),
          .M = std::llround(seen * static_cast<double>(N)),
          .value = value,
          .master = std::max<int64_t>(value, 4),
          .keep = train.recompute == Recompute::selective ? SavePolicy::selective : SavePolicy::all,
          .product_bytes = product_bytes(config, mesh),
          .attention_bytes = attention_backward_bytes(config, sequences, multiprocessors)};
}

/// Rotated queries and keys, clamped values, and 1/rms of queries and keys: for one token.
int64_t rotated_bytes(const Pass& p) {
  const auto& m = p.model;
  return (m.d_model + (m.clip_qkv ? 2 : 1) * m.kv_width()) * p.value + (m.qk_norm == QkNorm::full ? 2 * p.master : 0);
}

/// Kept by attention and both norms of a block, for one token, without the block's input.
int64_t kept_by_attention(const Pass& p) {
  const auto& m = p.model;
  // The projection, the attended values, the sum with the residual; log-sum-exp of each head, 1/rms of both norms.
  const int64_t least = (m.qkv_width() + 2 * m.d_model) * p.value + (m.num_heads + 2) * p.master;
  return p.keep == SavePolicy::selective ? least : least + 2 * m.d_model * p.value + rotated_bytes(p);
}

/// Kept by the feed-forward of a block, for one token. Its input is attention's.
int64_t kept_by_ffn(const Pass& p) {
  const auto& m = p.model;
  if (!p.moe()) return 2 * m.dense_hidden() * p.value;
  // The pre-activation; of each choice its score and id, and its place among the rows both ways.
  const int64_t least = m.top_k * (2 * m.expert_width * p.value + p.master + 3 * kIndex);
  // Probabilities, log-sum-exp and scores by token.
  return p.keep == SavePolicy::selective ? least : least + (m.num_experts + 1 + m.top_k) * p.master;
}

/// What says where rows go, for all tokens, beside what kept_by_ffn() counts of it: of copies, their place and their
/// token's; of received tokens, places by choice in place of those by own choice.
int64_t kept_by_dispatch(const Pass& p) {
  return p.travels ? (p.M + p.M * p.model.top_k) * kIndex + p.M * p.model.d_model * p.value : 0;
}

/// Kept by a block whatever the tokens: expert offsets, balance gradients and counts, statistics.
int64_t kept_by_layer(const Pass& p) {
  if (!p.moe()) return 0;
  const auto& m = p.model;
  const int64_t groups = m.load_balancing_granularity == BalanceGranularity::sequence ? p.sequences : 1;
  const int64_t by_group = p.master + (p.keep == SavePolicy::all ? kDouble : 0);
  return m.num_experts * (kIndex + groups * by_group + kDouble);
}

/// Temporaries of the experts' backward, of one chunk.
int64_t expert_temporaries(const Pass& p) {
  const auto& m = p.model;
  const int64_t rows = p.N * m.top_k / p.chunks, hidden = rows * m.expert_width * p.value;
  const int64_t wide = rows * m.d_model * p.value, token_rows = p.M / p.chunks * m.d_model * p.value;
  // What arrived is kept; other rows are normed again for the weight's gradients.
  const int64_t again = p.keep == SavePolicy::selective && !p.travels ? token_rows : 0;
  // Gradients of the pre-activation and hidden rows; then the former with rows of dx and their sums.
  if (p.fused) return std::max(3 * hidden, 2 * hidden + std::max(again, wide + token_rows));
  // Rows of dy, gradients of the pre-activation, hidden rows; their gradients, then those of the weight.
  const int64_t down = wide + 3 * hidden + std::max(hidden, p.product_bytes / 2);
  // Gradients of the pre-activation; rows of x (and the normed copy) with the weight's gradients, then of dx with their
  // sums.
  const int64_t up = wide + 2 * hidden + std::max(token_rows, again + p.product_bytes);
  return std::max(down, up);
}

/// Temporaries of the feed-forward's backward.
int64_t ffn_temporaries(const Pass& p) {
  const auto& m = p.model;
  if (!p.moe())
    return p.N * 4 * m.dense_hidden() * p.value;  // gradients of hidden rows and pre-activation, hidden rows
  const int64_t row = m.d_model * p.value, scores = p.N * m.top_k * p.master;
  // The gradients that came back to the experts. Of the other chunks both ends are alive: rows of dy that are on their
  // way, or of dx; and as the gradient of the residual is put together chunk by chunk, it is no longer dy itself.
  const int64_t in_flight = p.travels ? p.M * row * (2 * p.chunks - 1) / p.chunks : 0;
  const int64_t residual = p.chunks > 1 ? p.N * row : 0;
  return in_flight + residual + expert_temporaries(p) + scores;
}

/// Temporaries of attention's backward, for one token: gradients of its output, its residual and the projection; what
/// was not kept.
int64_t attention_temporaries(const Pass& p) {
  const auto& m = p.model;
  return (2 * m.d_model + m.qkv_width()) * p.value + (p.keep == SavePolicy::selective ? rotated_bytes(p) : 0);
}

}  // namespace

int64_t flash_backward_bytes(const ModelConfig& model, AttentionSize size, int multiprocessors) {
  constexpr int64_t kBf16 = 2, kFloat = 4;
  const int64_t B = size.sequences, S = size.positions, H = model.num_heads, G = model.num_kv_heads, rows = B * S;
  const int64_t d = round_up(model.head_dim(), 8), padded_S = round_up(S, 128);
  const int64_t padded_d = round_up(d, d <= 128 ? 32 : 64);
  const int64_t splits = size.deterministic ? ceil_div(multiprocessors, B * H) : 1;
  const int64_t grads = rows * (H + 2 * G) * d * kBf16;                 // dq, dk, dv
  const int64_t by_query_head = G == H ? 0 : 2 * rows * H * d * kBf16;  // dk and dv, before they are summed by group
  const int64_t dq_sums = splits * B * padded_S * H * padded_d * kFloat;
  const int64_t row_sums = B * H * padded_S * kFloat;
  // Heads whose width is no multiple of 8 are copied to one that is: q, k, v, the output and its gradient.
  const int64_t copies = d == model.head_dim() ? 0 : rows * (3 * H + 2 * G) * d * kBf16;
  return grads + by_query_head + dq_sums + row_sums + copies;
}

int64_t cudnn_backward_bytes(const ModelConfig& model, AttentionSize size) {
  constexpr int64_t kBf16 = 2, kFloat = 4, kOwn = 256;
  const int64_t B = size.sequences, S = size.positions, H = model.num_heads, d = model.head_dim();
  // Tiles of 64 queries and 128 keys.
  const int64_t score_grads = B * H * round_up(S, 64) * round_up(S, 128) * kBf16, dq_sums = B * H * S * d * kFloat;
  const int64_t by_query_head = model.num_kv_heads == H ? 0 : 2 * B * S * H * d * kBf16;
  const int64_t row_sums = B * H * S * kFloat;
  return (size.deterministic ? score_grads : dq_sums) + by_query_head + row_sums + kOwn;
}

Moment fullest_moment(const Config& config, MeshShape mesh, int multiprocessors) {
  const auto p = pass_of(config, mesh, multiprocessors);
  const auto& m = p.model;
  const bool full = config.train.recompute == Recompute::full;
  const int64_t row = m.d_model * p.value;
  const int64_t attention = p.N * kept_by_attention(p),
                ffn = p.N * kept_by_ffn(p) + kept_by_layer(p) + kept_by_dispatch(p);
  // Inputs of all stages but the first; blocks that wait keep their graph, or their choice of experts and its places
  // alone.
  const int64_t inputs = p.N * (m.num_layers + 1) * row;
  const int64_t places = p.travels ? (p.M + p.M * m.top_k) * kIndex : 0;
  const int64_t choice = full && p.moe() ? p.N * m.top_k * 3 * kIndex + places : 0;
  const int64_t waiting = full ? choice : attention + ffn;
  const int64_t before = inputs + (m.num_layers - 1) * waiting;

  const int64_t logits = std::min(p.N, m.loss_chunk) * m.vocab_size * p.value;
  constexpr int64_t kLoss = sizeof(double);  // of a token
  const std::array moments{
      Moment{"loss and its gradients", before + waiting, p.N * (2 * row + p.master + kLoss) + logits},
      Moment{"backward of the last feed-forward", before + attention + ffn, p.N * row + ffn_temporaries(p)},
      Moment{"backward of the last attention", before + attention,
             p.N * (row + attention_temporaries(p)) + p.attention_bytes}};
  return *std::max_element(moments.begin(), moments.end(),
                           [](const Moment& a, const Moment& b) { return a.total() < b.total(); });
}

}  // namespace olmoe
