// Gradients of the experts' weights: gather(x)^T y over the rows of each expert, stored in fp32 or added where they
// stay. The gathered operand is A, so that up's gradient comes out transposed; a lane's values of it lie in memory
// beside those of other lanes. Shapes as in kernels/experts.h; O columns of y.
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
    float* dw;  ///< [E, D, O], or [E, O, D]: transposed
    GradWrite write;
    int64_t D, O;
  };
  static __device__ OriginB origin_B(const TileCursor& at) { return {at.n * kTileN, at.begin, 0}; }
  static __device__ void prefetch(const Params&, const TileCursor&, int) {}

  template <class Values>
  static __device__ void finish(const Params& p, const TileCursor& at, const Values& values, int warp, c10::BFloat16*) {
    const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
    const int64_t m = int64_t{at.m} * kTileM + warp * kWarpRows, n = int64_t{at.n} * kTileN;
    const int64_t step_m = kTransposed ? 1 : p.O, step_n = kTransposed ? p.D : 1;
    float* const dw = p.dw + at.expert * p.D * p.O + m * step_m + n * step_n;
    constexpr int kRun = kTransposed ? 1 : 2;  // values that lie side by side
    const auto for_runs = [&](const auto& put) {
#pragma unroll
      for (int i = 0; i < kValuesPerThread; i += kRun) {
        cuda::Vector<float, kRun> run;
#pragma unroll
        for (int j = 0; j < kRun; ++j) run.values[j] = values(i + j);
        put(dw + fragment_row(lane, i) * step_m + fragment_column(lane, i) * step_n, run);
      }
    };
    // One thread of a launch has an element, so the sums are the same in every run.
    if (p.write == GradWrite::store)
      for_runs([](float* to, const auto& run) { cuda::store_vector(to, run); });
    else
      for_runs([](float* to, const auto& run) { cuda::atomic_add_vector(to, run); });
  }
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
      .dw = dw.data_ptr<float>(),
      .write = write,
      .D = D,
      .O = O};
  launch<Gemm>(params, R, x_TD);
}

}  // namespace

bool built_in() { return true; }

void down_weight_grad(const at::Tensor& dy_TD, const Permutation& order, const at::Tensor& h_RF,
                      at::Tensor& ddown_EDF, GradWrite write) {
  multiply_rows<false>(dy_TD, order, h_RF, ddown_EDF, write);
}

void up_weight_grad(const at::Tensor& x_TD, const Permutation& order, const at::Tensor& dz_R2F,
                    at::Tensor& dgate_up_E2FD, GradWrite write) {
  multiply_rows<true>(x_TD, order, dz_R2F, dgate_up_E2FD, write);
}

}  // namespace olmoe::kernels::hopper
