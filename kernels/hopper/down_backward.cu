#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include "kernels/hopper/down_backward.cuh"

namespace olmoe::kernels::hopper {

void down_projection_backward(const at::Tensor& dy_TD, const ScoredRows& rows, const at::Tensor& z_R2F,
                              const at::Tensor& down_EDF, SwigluGrads& out) {
  at::Tensor dscore_RN = at::empty({z_R2F.size(0), down_EDF.size(2) / kTileN}, rows.scores_R.options());
  const auto params = DownBackward::params(dy_TD, rows, z_R2F, down_EDF, out, dscore_RN);
  launch<DownBackward>(params, z_R2F.size(0), dy_TD);
  at::sum_out(out.dscore_R, dscore_RN, /*dim=*/1);
}

}  // namespace olmoe::kernels::hopper
