// Shapes: N tokens, K experts of each, R routed rows sorted by expert (stable), D width, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace olmoe::kernels {

/// Assignments sorted by expert. Assignment n*K + k is token n with its k-th expert; an assignment that has no row (its
/// expert is on another rank, or it was dropped for capacity) has row -1.
struct Permutation {
  at::Tensor assignment_R;  ///< int32, the assignment of each row
  at::Tensor row_NK;        ///< int32, the row of each assignment: the inverse of assignment_R
  at::Tensor offsets_E;     ///< int32, inclusive running sum of the rows of each expert, as grouped GEMMs take it
};
/// Stable counting sort of ids_NK (int32) by expert; an id of -1 is an assignment without a row. `rows`: the number of
/// assignments with a row, N*K by default. Given by the caller, since counting on a GPU would force a host sync.
/// Throws Error on a CPU if an id is not below `num_experts`, or if `rows` does not match; on a GPU the kernel asserts.
Permutation sort_by_expert(const at::Tensor& ids_NK, int64_t num_experts, std::optional<int64_t> rows = {});
/// x_RD[r] = x_ND[assignment[r] / K].
at::Tensor gather_rows(const at::Tensor& x_ND, const Permutation& permutation);
/// y_ND[n] = residual[n] (if defined) + sum over the k that have a row of y_RD[row[n, k]], in the order of k, in at
/// least fp32, rounded once.
at::Tensor combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_ND);
/// Values by assignment to values by row: v_R[r] = v_NK[assignment[r]]; and back, 0 for assignments without a row.
at::Tensor to_rows(const at::Tensor& v_NK, const Permutation& permutation);
at::Tensor to_assignments(const at::Tensor& v_R, const Permutation& permutation);

}  // namespace olmoe::kernels
