// Gradients of the experts' weights: gather(x)^T y over the rows of each expert, stored in fp32 or added in place. The
// gathered operand is A, so that up's gradient is computed transposed: values that are contiguous in memory belong to
// different lanes. Shapes as in kernels/experts.h; O columns of y.
#pragma once
#include "kernels/hopper/epilogues.cuh"
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"

namespace olmoe::kernels::hopper {

template <bool kTransposed>
using WeightGradGemm = ExpertGemm<RowsAlongK, Along::MN, Along::MN, WeightGradEpilogue<kTransposed>>;

template <bool kTransposed>
struct WeightGrad : WeightGradGemm<kTransposed> {
  using typename WeightGradGemm<kTransposed>::Params;
  using typename WeightGradGemm<kTransposed>::B;
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * kTileN, at.begin, 0}; }

  static Params params(const at::Tensor& x_ND, const Permutation& permutation, const at::Tensor& y_RO,
                       const at::Tensor& dw, GradWrite write) {
    const int64_t D = x_ND.size(1), R = y_RO.size(0), O = y_RO.size(1);
    return {.tiles = expert_tiles(permutation, D / kTileM, O / kTileN, /*empty_too=*/write == GradWrite::store),
            .K = 0,
            .a = gathered_rows(x_ND, permutation),
            .b = B(bf16(y_RO), {static_cast<int32_t>(O), static_cast<int32_t>(R), 1}, {cute::_1{}, O, 0}, 0),
            .epilogue = {.dw = dw.data_ptr<float>(), .write = write, .D = D, .O = O}};
  }
};

}  // namespace olmoe::kernels::hopper
