// Gradients of the experts' weights: gather(x)^T y over the rows of each expert, stored in fp32 or added where they
// stay. The gathered operand is A, so that up's gradient comes out transposed; a lane's values of it lie in memory
// beside those of other lanes. Shapes as in kernels/experts.h; O columns of y.
#include "kernels/hopper/epilogues.cuh"
#include "kernels/hopper/fused.h"
#include "kernels/hopper/grouped_kernel.cuh"

namespace olmoe::kernels::hopper {
namespace {

template <bool kTransposed>
struct WeightGrad {
  using A = RowsAlongK;
  static constexpr Along kAlongA = Along::MN;
  using Main = Mainloop<kAlongA, Along::MN>;
  using B = OperandB<Main, 1>;
  struct Params {
    ExpertTiles tiles;
    int32_t K;  ///< not used: an expert's rows
    GatheredRows a;
    B b;
    WeightGradEpilogue<kTransposed> epilogue;
  };
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * kTileN, at.begin, 0}; }
  static __device__ void prefetch(const Params&, const TileCursor&, int) {}
};

template <bool kTransposed>
void multiply_rows(const at::Tensor& x_TD, const Permutation& order, const at::Tensor& y_RO, at::Tensor& dw,
                   GradWrite write) {
  using Gemm = WeightGrad<kTransposed>;
  const int64_t D = x_TD.size(1), R = y_RO.size(0), O = y_RO.size(1);
  const typename Gemm::Params params{
      .tiles = expert_tiles(order, D / kTileM, O / kTileN, /*empty_too=*/write == GradWrite::store),
      .K = 0,
      .a = gathered_rows(x_TD, order),
      .b = typename Gemm::B(bf16(y_RO), {static_cast<int32_t>(O), static_cast<int32_t>(R), 1}, {cute::_1{}, O, 0}, 0),
      .epilogue = {.dw = dw.data_ptr<float>(), .write = write, .D = D, .O = O}};
  launch<Gemm>(params, R, x_TD);
}

}  // namespace

bool built_in() { return true; }

void down_weight_grad(const at::Tensor& dy_TD, const Permutation& order, const at::Tensor& h_RF, at::Tensor& ddown_EDF,
                      GradWrite write) {
  multiply_rows<false>(dy_TD, order, h_RF, ddown_EDF, write);
}

void up_weight_grad(const at::Tensor& x_TD, const Permutation& order, const at::Tensor& dz_R2F,
                    at::Tensor& dgate_up_E2FD, GradWrite write) {
  multiply_rows<true>(x_TD, order, dz_R2F, dgate_up_E2FD, write);
}

}  // namespace olmoe::kernels::hopper
