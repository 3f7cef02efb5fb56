// The strips of the fused experts (kernels/hopper/strip.cuh, kernels/expert_tiles.h) without the GEMM: a kernel reads
// the rows of every tile, converts them to wgmma's fragments, multiplies them by their scores and writes them. Wrong
// tiles, and wrong maps of tiles, are planted.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <vector>

#include "emulation/mistaken_tiles.h"
#include "kernels/compare.h"
#include "kernels/hopper/strip.cuh"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

constexpr int kWarps = 8, kStrips = kTileN / kStripColumns, kTilesN = 2;

struct Copy {
  const hopper::Element* from;
  const float* scores_R;
  hopper::Element* to;
  int64_t stride;
  ExpertTiles tiles;
  Mistake mistake;  ///< of the strips
};

__global__ void __launch_bounds__(kWarps* cuda::kWarp) copy_tiles(Copy copy) {
  extern __shared__ uint4 strips[];
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  hopper::Strip strip(reinterpret_cast<hopper::Element*>(strips) + warp * kStripElements);
  TileCursor at;
  for (auto tile = static_cast<int32_t>(blockIdx.x); at.seek(copy.tiles, tile); tile += gridDim.x) {
    const TileCursor taken = copy.mistake(at);
    const hopper::WarpRows rows(taken, warp);
    const hopper::RowScores scores(copy.scores_R, rows, strip.lane());
    for (int s = 0; s < kStrips; ++s) {
      const int64_t corner = rows.first * copy.stride + taken.n * kTileN + s * kStripColumns;
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

/// Whether the tiles of such a map take all there is. `tiles`: the experts' rows are put in.
bool rows_are_copied(const Trial& trial, ExpertTiles tiles, unsigned blocks) {
  std::vector<int32_t> offsets;
  for (int32_t sum = 0; const int32_t rows : trial.rows_E) offsets.push_back(sum += rows);
  const int64_t R = offsets.back(), D = kTilesN * kTileN;
  const at::Tensor x = normal({R, D}, at::kBFloat16, 1), scores_R = normal({R}, at::kFloat, 2);
  const at::Tensor gpu_x = x.to(at::kCUDA), gpu_scores = scores_R.to(at::kCUDA);
  const at::Tensor offsets_E = at::tensor(offsets, at::kInt).to(at::kCUDA);
  const at::Tensor out = at::full({R, D}, -1, gpu_x.options());
  tiles.offsets_E = offsets_E.const_data_ptr<int32_t>();
  const Copy copy{.from = gpu_x.const_data_ptr<hopper::Element>(),
                  .scores_R = gpu_scores.const_data_ptr<float>(),
                  .to = out.data_ptr<hopper::Element>(),
                  .stride = D,
                  .tiles = tiles,
                  .mistake = trial.mistake};
  copy_tiles<<<blocks, kWarps * cuda::kWarp, kWarps * kStripElements * sizeof(hopper::Element)>>>(copy);
  return same_bits(out.cpu(), (x.to(at::kFloat) * scores_R.unsqueeze(1)).to(at::kBFloat16));
}

ExpertTiles tiles_of(const Trial& trial) { return {nullptr, static_cast<int32_t>(trial.rows_E.size()), 0, kTilesN}; }
const std::vector<Trial> kTrials =
    trials({starts_a_row_late, misses_the_last_row, takes_the_tile_before, takes_the_first_columns}, {15, 16, 17});

}  // namespace

TEST_CASE("strips and tiles of the fused experts cover each row of each expert once", "[emulation]") {
  const Trial trial = GENERATE(from_range(kTrials));
  const auto blocks = GENERATE(1u, 5u);
  CAPTURE(trial.rows_E, trial.right(), blocks);
  CHECK(rows_are_copied(trial, tiles_of(trial), blocks) == trial.right());
}

TEST_CASE("planted: wrong maps of tiles are noticed", "[emulation]") {
  const Trial trial{{0, 300, 3}};
  const ExpertTiles right = tiles_of(trial);
  ExpertTiles lacks_an_expert = right, lacks_rows = right, lacks_columns = right;
  --lacks_an_expert.E;
  lacks_rows.tiles_m = 1;
  --lacks_columns.tiles_n;
  CHECK(rows_are_copied(trial, right, 5));
  for (const ExpertTiles& wrong : {lacks_an_expert, lacks_rows, lacks_columns})
    CHECK_FALSE(rows_are_copied(trial, wrong, 5));
}

// These end the program, as those of planted_faults.cu do.
TEST_CASE("planted: strip_takes_the_row_behind", "[.planted]") {
  const Trial trial{{0, 300, 3}, takes_the_row_behind};
  CHECK(rows_are_copied(trial, tiles_of(trial), 1));
}
TEST_CASE("planted: map_of_one_expert_too_many", "[.planted]") {
  const Trial trial{{0, 300, 3}};
  ExpertTiles tiles = tiles_of(trial);
  ++tiles.E;
  CHECK(rows_are_copied(trial, tiles, 1));
}
