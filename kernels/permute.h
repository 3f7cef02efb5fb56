// Shapes: T tokens, K experts for each, R routed rows sorted by expert (stable), D width, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace olmoe::kernels {

/// Where each routed row is. Row r of the sorted order is assignment slot_R[r] = t*K + k; row_TK is its inverse, -1 for
/// an assignment that has no row (its expert is on another rank, or had no room for it).
struct Permutation {
  at::Tensor slot_R;     ///< int32
  at::Tensor row_TK;     ///< int32
  at::Tensor offsets_E;  ///< int32, inclusive running sum of the counts (what grouped GEMM wants)
};
/// Counting sort by expert, stable, of ids_TK (int32). An id of -1 is an assignment without a row. `rows` says how many
/// have one: all T*K if none is absent. It is the host's word, for on a GPU only the device could count them.
Permutation sort_by_expert(const at::Tensor& ids_TK, int64_t num_experts, std::optional<int64_t> rows = {});
/// x_RD[r] = x_TD[slot[r] / K].
at::Tensor gather_rows(const at::Tensor& x_TD, const Permutation& permutation);
/// y_TD[t] = residual[t] (where defined) + sum over the k that have a row of y_RD[row[t, k]], in the order of k, at
/// least fp32, rounded once.
at::Tensor combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_TD);
/// Values by assignment to values by row, and back: v_R[r] = v_TK[slot[r]]. The value of an assignment without a row is
/// 0.
at::Tensor to_rows(const at::Tensor& v_TK, const Permutation& permutation);
at::Tensor to_assignments(const at::Tensor& v_R, const Permutation& permutation);

}  // namespace olmoe::kernels
