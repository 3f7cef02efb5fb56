// The epilogues of the fused experts (kernels/hopper/epilogues.cuh) without the GEMM: a kernel reads the values of each
// lane from memory, where wgmma would leave them in registers. Each check has its planted faults.
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <vector>

#include "emulation/mistaken_tiles.h"
#include "kernels/compare.h"
#include "kernels/hopper/epilogues.cuh"
#include "kernels/swiglu.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;
using hopper::Element;

namespace {

constexpr int kWarps = 8;
constexpr size_t kStripBytes = kWarps * kStripElements * sizeof(Element);

/// The values of a lane, of a row-major tile in memory.
struct Values {
  const float* rows_of_warp;
  int lane;
  __device__ float operator()(int i) const {
    return rows_of_warp[fragment_row(lane, i) * kTileN + fragment_column(lane, i)];
  }
};

template <class Epilogue>
struct Finishing {
  Epilogue epilogue;
  ExpertTiles tiles;
  const float* product;  ///< tile after tile
  Mistake mistake;       ///< of the epilogue
};

template <class Epilogue>
__global__ void __launch_bounds__(kWarps* cuda::kWarp) finish_tiles(Finishing<Epilogue> f) {
  extern __shared__ uint4 strips[];
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp, lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  TileCursor at;
  for (auto tile = static_cast<int32_t>(blockIdx.x); at.seek(f.tiles, tile); tile += gridDim.x) {
    const float* const rows_of_warp = f.product + (int64_t{tile} * kTileM + warp * kWarpRows) * kTileN;
    Element* const strip = reinterpret_cast<Element*>(strips) + warp * kStripElements;
    f.epilogue.finish(f.mistake(at), Values{rows_of_warp, lane}, warp, strip);
  }
}

/// Rows of experts, and the tiles that are passed to the kernel. Rows past an expert's last one are NaN and must not be
/// used.
struct Case {
  Case(const Trial& tried, ExpertTiles shape) : trial(tried), tiles(shape) {
    for (int32_t sum = 0; const int32_t rows : trial.rows_E) offsets.push_back(sum += rows);
    R = offsets.back();
    gpu_offsets = at::tensor(offsets, at::kInt).to(at::kCUDA);
    tiles.E = static_cast<int32_t>(offsets.size());
    tiles.offsets_E = offsets.data();
  }
  /// Runs the epilogue on all tiles; tile_of(at) returns the values of one, [up to kTileM, kTileN].
  template <class Epilogue, class TileOf>
  void finish(const Epilogue& epilogue, const TileOf& tile_of) const {
    std::vector<at::Tensor> cut;
    TileCursor at;
    for (int32_t tile = 0; at.seek(tiles, tile); ++tile) {
      cut.push_back(at::full({kTileM, kTileN}, std::nan(""), at::kFloat));
      const at::Tensor values = tile_of(at);
      cut.back().narrow(0, 0, values.size(0)).copy_(values);
    }
    const at::Tensor product = at::stack(cut).to(at::kCUDA);
    ExpertTiles on_gpu = tiles;
    on_gpu.offsets_E = gpu_offsets.const_data_ptr<int32_t>();
    finish_tiles<Epilogue><<<5, kWarps * cuda::kWarp, kStripBytes>>>(
        Finishing<Epilogue>{epilogue, on_gpu, product.const_data_ptr<float>(), trial.mistake});
  }
  /// The rows of a tile whose M dimension is an expert's rows.
  static at::Tensor rows_of(const at::Tensor& x_RW, const TileCursor& at) {
    const int64_t first = int64_t{at.begin} + at.m * kTileM;
    return x_RW.narrow(0, first, std::min<int64_t>(kTileM, at.end - first));
  }

  Trial trial;
  std::vector<int32_t> offsets;
  int64_t R;
  at::Tensor gpu_offsets;
  ExpertTiles tiles;
};

at::Tensor unwritten(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::full(sizes, std::nan(""), at::TensorOptions().dtype(dtype).device(at::kCUDA));
}

const std::vector<int32_t> kNearABorder{15, 16, 17};
const std::vector<Trial> kTrials =
    trials({starts_a_row_late, misses_the_last_row, takes_the_tile_before, takes_the_first_columns}, kNearABorder);
const std::vector<Trial> kWeightTrials =
    trials({takes_the_tile_before, takes_the_first_columns, takes_the_expert_before}, kNearABorder);
constexpr int64_t kF = 2 * kTileN;

bool rows_are_written(const Trial& trial) {
  const Case c(trial, {nullptr, 0, 0, kF / kTileN});
  const at::Tensor product = normal({c.R, kF}, at::kFloat, 1), y = unwritten({c.R, kF}, at::kBFloat16);
  c.finish(hopper::RowsEpilogue{.y_RO = y.data_ptr<Element>(), .O = kF},
           [&](const TileCursor& at) { return Case::rows_of(product, at).narrow(1, int64_t{at.n} * kTileN, kTileN); });
  return same_bits(y.cpu(), product.to(at::kBFloat16));
}

template <bool kTransposed>
bool weight_grads_are_written(const Trial& trial, GradWrite write) {
  constexpr int64_t kD = 2 * kTileM, kO = 2 * kTileN;
  const bool stores = write == GradWrite::store;
  const Case c(trial, {nullptr, 0, kD / kTileM, kO / kTileN, /*empty_too=*/stores});
  const int64_t E = c.tiles.E;
  const at::Tensor product = normal({E, kD, kO}, at::kFloat, 1);
  for (int64_t e = 0; e < E; ++e)
    if (trial.rows_E[e] == 0) product[e].zero_();
  const at::Tensor before = normal({E, kTransposed ? kO : kD, kTransposed ? kD : kO}, at::kFloat, 2);
  const at::Tensor dw = stores ? unwritten(before.sizes(), at::kFloat) : before.to(at::kCUDA);
  c.finish(hopper::WeightGradEpilogue<kTransposed>{.dw = dw.data_ptr<float>(), .write = write, .D = kD, .O = kO},
           [&](const TileCursor& at) {
             const at::Tensor columns = product[at.expert].narrow(1, int64_t{at.n} * kTileN, kTileN);
             return columns.narrow(0, int64_t{at.m} * kTileM, kTileM);
           });
  const at::Tensor laid_out = kTransposed ? product.transpose(1, 2).contiguous() : product;
  return same_bits(dw.cpu(), stores ? laid_out : before + laid_out);
}

}  // namespace

TEST_CASE("the rows epilogue writes each row of each expert", "[emulation]") {
  const Trial trial = GENERATE(from_range(kTrials));
  CHECK(rows_are_written(trial) == trial.right());
}

TEST_CASE("the up epilogue writes z and h of each row of each expert", "[emulation]") {
  constexpr int kColumns = hopper::UpEpilogue::kColumns;
  const Case c(GENERATE(from_range(kTrials)), {nullptr, 0, 0, kF / kColumns});
  const at::Tensor product = normal({c.R, 2 * kF}, at::kFloat, 1), scores_R = normal({c.R}, at::kFloat, 2);
  const at::Tensor gpu_scores = scores_R.to(at::kCUDA);
  const at::Tensor z = unwritten({c.R, 2 * kF}, at::kBFloat16), h = unwritten({c.R, kF}, at::kBFloat16);
  c.finish(hopper::UpEpilogue{.scores_R = gpu_scores.const_data_ptr<float>(),
                              .z_R2F = z.data_ptr<Element>(),
                              .h_RF = h.data_ptr<Element>(),
                              .F = kF},
           [&](const TileCursor& at) {
             const at::Tensor rows = Case::rows_of(product, at);
             const int64_t column = int64_t{at.n} * kColumns;
             return at::cat({rows.narrow(1, column, kColumns), rows.narrow(1, kF + column, kColumns)}, 1);
           });
  const at::Tensor expected_z = product.to(at::kBFloat16);
  CHECK(same_bits(z.cpu(), expected_z) == c.trial.right());
  const double h_error = relative_error(h.cpu(), swiglu(expected_z, scores_R));
  CHECK((h_error <= 2 * bound(at::kBFloat16, 1, 1, 1)) == c.trial.right());
}

TEST_CASE("the down backward epilogue writes dz, h and the score gradient of each row of each expert", "[emulation]") {
  const Case c(GENERATE(from_range(kTrials)), {nullptr, 0, 0, kF / kTileN});
  const at::Tensor dh = normal({c.R, kF}, at::kBFloat16, 1), z = normal({c.R, 2 * kF}, at::kBFloat16, 2);
  const at::Tensor product = dh.to(at::kFloat), scores_R = normal({c.R}, at::kFloat, 3);
  const at::Tensor gpu_scores = scores_R.to(at::kCUDA), gpu_z = z.to(at::kCUDA);
  const at::Tensor dz = unwritten({c.R, 2 * kF}, at::kBFloat16), h = unwritten({c.R, kF}, at::kBFloat16);
  const at::Tensor partial_dscores = unwritten({c.R, kF / kTileN}, at::kFloat);
  c.finish(hopper::DownBackwardEpilogue{.scores_R = gpu_scores.const_data_ptr<float>(),
                                        .z_R2F = gpu_z.const_data_ptr<Element>(),
                                        .dz_R2F = dz.data_ptr<Element>(),
                                        .h_RF = h.data_ptr<Element>(),
                                        .partial_dscores = partial_dscores.data_ptr<float>(),
                                        .F = kF},
           [&](const TileCursor& at) { return Case::rows_of(product, at).narrow(1, int64_t{at.n} * kTileN, kTileN); });
  const SwigluGrads expected = swiglu_backward(dh, z, scores_R);
  CHECK((relative_error(dz.cpu(), expected.dz_R2F) <= 2 * bound(at::kBFloat16, 1, 1, 1)) == c.trial.right());
  CHECK((relative_error(h.cpu(), expected.h_RF) <= 2 * bound(at::kBFloat16, 1, 1, 1)) == c.trial.right());
  const double dscore_error = relative_error(partial_dscores.cpu().sum(1), expected.dscore_R);
  CHECK((dscore_error <= 2 * bound(at::kFloat, kF, 1, 1)) == c.trial.right());
}

TEMPLATE_TEST_CASE_SIG("a weight gradient's epilogue adds to each element once, or stores it", "[emulation]",
                       ((bool kTransposed), kTransposed), false, true) {
  const Trial trial = GENERATE(from_range(kWeightTrials));
  const auto write = GENERATE(GradWrite::add, GradWrite::store);
  CAPTURE(trial.rows_E, write == GradWrite::store);
  CHECK(weight_grads_are_written<kTransposed>(trial, write) == trial.right());
}

TEST_CASE("planted: an epilogue that writes past the last row is stopped", "[emulation]") {
  CHECK_THROWS_AS(rows_are_written({{0, 300, 3}, takes_the_row_behind}), emulation::Fault);
}
// This ends the program, as those of planted_faults.cu do.
TEST_CASE("planted: epilogue_adds_to_the_expert_behind", "[.planted]") {
  CHECK(weight_grads_are_written<false>({{0, 300, 3}, takes_the_expert_behind}, GradWrite::add));
}
