#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include "kernels/hopper/down_backward.cuh"

namespace olmoe::kernels::hopper {

void down_projection_backward(const at::Tensor& dy_ND, const ScoredRows& rows, const at::Tensor& z_R2F,
                              const at::Tensor& down_EDF, SwigluGrads& out) {
  at::Tensor partial_dscores = at::empty({z_R2F.size(0), down_EDF.size(2) / kTileN}, rows.scores_R.options());
  const auto params = DownBackward::params(dy_ND, rows, z_R2F, down_EDF, out, partial_dscores);
  launch<DownBackward>(params, z_R2F.size(0), dy_ND);
  at::sum_out(out.dscore_R, partial_dscores, /*dim=*/1);
}

}  // namespace olmoe::kernels::hopper
