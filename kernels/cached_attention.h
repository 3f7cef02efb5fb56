// Attention of new tokens to the keys and values that a cache holds. Shapes: N new tokens of all sequences, H query
// heads and G key/value heads (G divides H) of width d; B sequences of at most S tokens.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace olmoe::kernels {

/// Keys and values of one layer, contiguous; position s of sequence b is row s of it. Rows that were not stored are
/// never read.
struct KeyValues {
  at::Tensor k_BGSd, v_BGSd;
};
/// Neighbouring rows of the new tokens: those at positions [first, first + count) of a sequence, whose earlier ones are
/// in the cache.
struct CachedRun {
  int64_t sequence, first, count;
};

/// Writes the rows of k_NGd and v_NGd to their positions, runs in the order of rows.
void store_keys_values(const KeyValues& cache, const at::Tensor& k_NGd, const at::Tensor& v_NGd,
                       std::span<const CachedRun> runs);
/// y_NHd = softmax(q k^T / sqrt(d)) v over the keys up to each token's own position, whose keys and values are stored:
/// the last `window` of them, its own included; 0: all. Prompts and single tokens take the same path. On a CPU; throws
/// Error where shapes, dtypes or runs do not match.
at::Tensor cached_attention(const at::Tensor& q_NHd, const KeyValues& cache, std::span<const CachedRun> runs,
                            int64_t window = 0);

}  // namespace olmoe::kernels
