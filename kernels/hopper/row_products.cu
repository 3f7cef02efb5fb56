// Grouped GEMMs of rows sorted by expert, with nothing fused: y = h down^T and dx = dz gate_up. Only the last tile of
// an expert is partial, while a library that works in pairs of blocks pads to twice that. Shapes as in
// kernels/experts.h; A is [R, K], the result [R, O].
#include "kernels/hopper/epilogues.cuh"
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"

namespace olmoe::kernels::hopper {
namespace {

/// Weights are [E, O, K] for Along::K, else [E, K, O].
template <Along kWeights>
using RowProduct = ExpertGemm<RowsAlongM<SortedRows>, Along::K, kWeights, RowsEpilogue>;
struct DownProjection : RowProduct<Along::K> {};
struct UpInputGrad : RowProduct<Along::MN> {};

template <class Gemm>
void multiply_sorted(const at::Tensor& x_RK, const Permutation& permutation, const at::Tensor& weights,
                     const typename Gemm::Main::StrideB& stride, at::Tensor& y_RO) {
  const auto E = static_cast<int32_t>(weights.size(0)), K = static_cast<int32_t>(x_RK.size(1));
  const auto O = static_cast<int32_t>(y_RO.size(1));
  const typename Gemm::Params params{.tiles = expert_tiles(permutation, 0, O / kTileN),
                                     .K = K,
                                     .a = {x_RK.const_data_ptr<Element>(), K},
                                     .b = typename Gemm::B(bf16(weights), {O, K, E}, stride, 0),
                                     .epilogue = {.y_RO = y_RO.data_ptr<Element>(), .O = O}};
  launch<Gemm>(params, x_RK.size(0), x_RK);
}

}  // namespace

void down_projection(const at::Tensor& h_RF, const Permutation& permutation, const at::Tensor& down_EDF,
                     at::Tensor& y_RD) {
  const int64_t D = down_EDF.size(1), F = down_EDF.size(2);
  multiply_sorted<DownProjection>(h_RF, permutation, down_EDF, {F, cute::_1{}, D * F}, y_RD);
}

void up_input_grad(const at::Tensor& dz_R2F, const Permutation& permutation, const at::Tensor& gate_up_E2FD,
                   at::Tensor& dx_RD) {
  const int64_t O = gate_up_E2FD.size(1), D = gate_up_E2FD.size(2);
  multiply_sorted<UpInputGrad>(dz_R2F, permutation, gate_up_E2FD, {cute::_1{}, D, O * D}, dx_RD);
}

}  // namespace olmoe::kernels::hopper
