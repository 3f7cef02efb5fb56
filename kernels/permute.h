// Shapes: T tokens, K experts for each, R = T*K routed rows sorted by expert (stable), D width, E experts.
#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe::kernels {

/// Where each routed row is. Row r of the sorted order is assignment slot_R[r] = t*K + k; row_TK is its inverse.
struct Permutation {
  at::Tensor slot_R;     ///< int32
  at::Tensor row_TK;     ///< int32
  at::Tensor offsets_E;  ///< int32, inclusive running sum of the counts (what grouped GEMM wants)
};
/// Counting sort by expert, stable, of ids_TK (int32).
Permutation sort_by_expert(const at::Tensor& ids_TK, int64_t num_experts);
/// x_RD[r] = x_TD[slot[r] / K].
at::Tensor gather_rows(const at::Tensor& x_TD, const Permutation& permutation);
/// y_TD[t] = residual[t] (where defined) + sum over k of y_RD[row[t, k]], in the order of k, at least fp32, rounded once.
at::Tensor combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_TD);
/// Values by assignment to values by row, and back: v_R[r] = v_TK[slot[r]].
at::Tensor to_rows(const at::Tensor& v_TK, const Permutation& permutation);
at::Tensor to_assignments(const at::Tensor& v_R, const Permutation& permutation);

}  // namespace olmoe::kernels
