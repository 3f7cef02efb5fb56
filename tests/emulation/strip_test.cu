// The strips of the fused experts (kernels/hopper/strip.cuh, kernels/expert_tiles.h) without the GEMM: a kernel reads
// the rows of every tile, converts them to wgmma's fragments, multiplies them by their scores and writes them.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <vector>

#include "kernels/compare.h"
#include "kernels/hopper/strip.cuh"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

constexpr int kWarps = 8, kStrips = kTileN / kStripColumns;

struct Copy {
  const hopper::Element* from;
  const float* scores_R;
  hopper::Element* to;
  int64_t stride;
  ExpertTiles tiles;
};

__global__ void __launch_bounds__(kWarps* cuda::kWarp) copy_tiles(Copy copy) {
  extern __shared__ uint4 strips[];
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  hopper::Strip strip(reinterpret_cast<hopper::Element*>(strips) + warp * kStripElements);
  TileCursor at;
  for (auto tile = static_cast<int32_t>(blockIdx.x); at.seek(copy.tiles, tile); tile += gridDim.x) {
    const hopper::WarpRows rows(at, warp);
    const hopper::RowScores scores(copy.scores_R, rows, strip.lane());
    for (int s = 0; s < kStrips; ++s) {
      const int64_t corner = rows.first * copy.stride + at.n * kTileN + s * kStripColumns;
      hopper::StripValues values;
      strip.to_values(strip.read(copy.from + corner, copy.stride, rows.count), values);
      for (int i = 0; i < hopper::kStripValues; i += 2) {
        auto& [first, second] = values[i / 2];
        const float score = scores.of_half[i / 2 % 2];
        values[i / 2] = rounded<hopper::Element>(load(first) * score, load(second) * score);
      }
      strip.write(values, copy.to + corner, copy.stride, rows.count);
    }
  }
}

}  // namespace

TEST_CASE("strips and tiles of the fused experts cover each row of each expert once", "[emulation]") {
  const auto rows_E =
      GENERATE(values<std::vector<int32_t>>({{1}, {0, 129, 0, 128, 127, 0}, {15, 16, 17}, {0, 300, 3}}));
  const auto blocks = GENERATE(1u, 5u);
  std::vector<int32_t> offsets;
  for (int32_t sum = 0; const int32_t rows : rows_E) offsets.push_back(sum += rows);
  const auto E = static_cast<int32_t>(rows_E.size());
  const int64_t R = offsets.back(), tiles_n = 2, D = tiles_n * kTileN;
  CAPTURE(rows_E, blocks);
  const at::Tensor x = normal({R, D}, at::kBFloat16, 1), scores_R = normal({R}, at::kFloat, 2);
  const at::Tensor gpu_x = x.to(at::kCUDA), gpu_scores = scores_R.to(at::kCUDA);
  const at::Tensor offsets_E = at::tensor(offsets, at::kInt).to(at::kCUDA);
  const at::Tensor out = at::full({R, D}, -1, gpu_x.options());
  const Copy copy{.from = gpu_x.const_data_ptr<hopper::Element>(),
                  .scores_R = gpu_scores.const_data_ptr<float>(),
                  .to = out.data_ptr<hopper::Element>(),
                  .stride = D,
                  .tiles = {offsets_E.const_data_ptr<int32_t>(), E, 0, static_cast<int32_t>(tiles_n)}};
  copy_tiles<<<blocks, kWarps * cuda::kWarp, kWarps * kStripElements * sizeof(hopper::Element)>>>(copy);
  CHECK(same_bits(out.cpu(), (x.to(at::kFloat) * scores_R.unsqueeze(1)).to(at::kBFloat16)));
}
