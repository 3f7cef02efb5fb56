#include "model/attention_memory.h"

#include <algorithm>

#include "core/integers.h"
#include "kernels/attention_index.h"

namespace olmoe {

int64_t flash_backward_bytes(const ModelConfig& model, AttentionSize size, int multiprocessors) {
  constexpr int64_t kBf16 = 2, kFloat = 4;
  const int64_t B = size.sequences, S = size.positions, H = model.num_heads, G = model.num_kv_heads, rows = B * S;
  const int64_t d = round_up(model.head_dim(), 8), padded_S = round_up(S, 128);
  const int64_t padded_d = round_up(d, d <= 128 ? 32 : 64);
  // Documents come in groups (kernels/attention_index.h), of which the smallest have half of the documents that one
  // may.
  const int64_t documents = kernels::most_documents(rows), fewest = std::min(B, ceil_div(documents, 2));
  const int64_t summed_rows = size.documents ? rows + documents * kernels::kRowsOfDocument : B * padded_S;
  const int64_t splits = size.deterministic ? ceil_div(multiprocessors, (size.documents ? fewest : B) * H) : 1;
  const int64_t grads = rows * (H + 2 * G) * d * kBf16;                 // dq, dk, dv
  const int64_t by_query_head = G == H ? 0 : 2 * rows * H * d * kBf16;  // dk and dv, before they are summed by group
  const int64_t dq_sums = splits * summed_rows * H * padded_d * kFloat;
  const int64_t row_sums = H * summed_rows * kFloat;
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

int64_t attention_backward_bytes(const ModelConfig& model, const CostContext& context) {
  constexpr int64_t kBf16 = 2;
  if (!context.on_gpu || context.value_bytes != kBf16) return 0;
  const AttentionSize size{context.sequences, context.positions, context.deterministic_attention, context.documents};
  return context.attention_kernel == kernels::AttentionKernel::cudnn
             ? cudnn_backward_bytes(model, size)
             : flash_backward_bytes(model, size, context.multiprocessors);
}

}  // namespace olmoe
