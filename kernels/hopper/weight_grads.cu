#include "kernels/hopper/weight_grads.cuh"

namespace olmoe::kernels::hopper {
namespace {

template <bool kTransposed>
void multiply_rows(const at::Tensor& x_ND, const Permutation& permutation, const at::Tensor& y_RO, const at::Tensor& dw,
                   GradWrite write) {
  using Gemm = WeightGrad<kTransposed>;
  launch<Gemm>(Gemm::params(x_ND, permutation, y_RO, dw, write), y_RO.size(0), x_ND);
}

}  // namespace

bool built_in() { return true; }

void down_weight_grad(const at::Tensor& dy_ND, const Permutation& permutation, const at::Tensor& h_RF,
                      at::Tensor& ddown_EDF, GradWrite write) {
  multiply_rows<false>(dy_ND, permutation, h_RF, ddown_EDF, write);
}

void up_weight_grad(const at::Tensor& x_ND, const Permutation& permutation, const at::Tensor& dz_R2F,
                    at::Tensor& dgate_up_E2FD, GradWrite write) {
  multiply_rows<true>(x_ND, permutation, dz_R2F, dgate_up_E2FD, write);
}

}  // namespace olmoe::kernels::hopper
