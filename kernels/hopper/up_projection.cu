#include "kernels/hopper/up_projection.cuh"

namespace olmoe::kernels::hopper {

void up_projection(const at::Tensor& x_ND, const ScoredRows& rows, const at::Tensor& gate_up_E2FD, ExpertsUp& out) {
  launch<UpProjection>(UpProjection::params(x_ND, rows, gate_up_E2FD, out), out.h_RF.size(0), x_ND);
}

}  // namespace olmoe::kernels::hopper
