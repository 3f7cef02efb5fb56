#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/matrix_homes.h"
#include "parallel/param_role.h"
#include "trainer/config/config_choices.h"

namespace olmoe {

/// The matrices that Muon orthogonalises of a parameter [..., rows, cols] that begins at element `begin` of its flat
/// unit: each expert's on its own, those of `parts` on their own, and those with attention heads as `qkv` says. Throws
/// Error for a parameter of less than two dimensions.
std::vector<FlatMatrix> muon_matrices(std::span<const int64_t> shape, const RowParts& parts, QkvMatrices qkv,
                                      int64_t begin);

/// The factor on the learning rate of a matrix. Sources: original: Jordan et al., Muon (2024); match_rms_adamw: Liu et
/// al., arXiv 2502.16982; both as torch.optim.Muon has them.
double lr_factor(LrAdjustment adjustment, int64_t rows, int64_t cols);

}  // namespace olmoe
