// Scalable softmax: scores times s ln(n), as queries times it. Shapes: N tokens, H query heads of width d, D = H*d.
// Source: Nakanishi, Scalable-Softmax Is Superior for Attention, arXiv 2501.19399.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace olmoe {

/// Which keys tokens see up to their own position: the last `window` of their sequence, or of their document.
struct VisibleKeys {
  int64_t tokens, sequences;
  int64_t window;          ///< 0: all
  at::Tensor bounds = {};  ///< of documents, as in Batch; undefined: sequences
};
/// The rotary table of the queries times ln(n) of each position, with n the keys that it sees: for n = 1 zeros, whose
/// scores are alike. `table`: [S, d], or [1, d] for all positions. [S, d], or [N, d] with documents; `table` itself
/// without tokens.
at::Tensor scaled_table(const at::Tensor& table, const VisibleKeys& keys);
/// The same for tokens at any positions of sequences, with a row of the table for each, or one for all: [N, d].
/// `window` 0: they see all keys before them.
at::Tensor scaled_rows(const at::Tensor& table, const at::Tensor& positions_N, int64_t window);

/// x_ND with the columns of head h times s_H[h], rounded once.
at::Tensor scale_heads(const at::Tensor& x_ND, const at::Tensor& s_H);
/// From the gradient dy_ND of scale_heads(): overwrites it with that of x_ND, and adds that of s_H to ds_H (at least
/// fp32).
void scale_heads_backward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& s_H,
                          const at::Tensor& ds_H);

}  // namespace olmoe
