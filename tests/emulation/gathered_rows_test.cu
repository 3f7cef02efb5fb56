// The loading threads of the fused experts (kernels/hopper/gathered_rows.cuh) without the GEMM: a kernel loads every
// tile of A and writes out the contents of the stage. Each check has its planted faults.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "emulation/mistaken_tiles.h"
#include "kernels/compare.h"
#include "kernels/hopper/gathered_rows.cuh"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

template <class Rows>
struct Loading {
  Rows rows;
  ExpertTiles tiles;
  int32_t K;
  hopper::Element* out;  ///< of each tile and k, its lines of columns
  Mistake mistake;       ///< of the threads that load
};

/// RowsAlongM: tiles of M rows, each K / kTileK long. RowsAlongK: of kTileM columns, as long as the expert has rows.
template <class A, class Rows>
__global__ void __launch_bounds__(kLoadThreads) load_stages(Loading<Rows> g) {
  extern __shared__ uint4 memory[];
  auto* const stage = reinterpret_cast<hopper::Element*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  TileCursor at;
  int64_t written = 0;
  for (int32_t tile = 0; at.seek(g.tiles, tile); ++tile) {
    const int32_t count = A::k_tiles(g.K, at);
    if (count == 0) continue;
    A a(g.rows, g.mistake(at), thread);
    for (int32_t k = 0; k < count; ++k, ++written) {
      a.copy_next(stage);
      __syncthreads();
      constexpr int kRows = kTileM * kTileK / A::kColumns;
      for (int i = thread; i < kRows * A::kColumns; i += kLoadThreads)
        g.out[written * kTileM * kTileK + i] = stage[staged_at<A::kColumns>(i / A::kColumns, i % A::kColumns)];
      __syncthreads();
    }
  }
}

__global__ void add_runs(float* x, const float* y) {
  const int i = static_cast<int>(threadIdx.x);
  cuda::atomic_add_vector(x + 2 * i, cuda::Vector<float, 2>{y[2 * i], y[2 * i + 1]});
  cuda::atomic_add_vector(x + 64 + i, cuda::Vector<float, 1>{y[64 + i]});
}

std::vector<int32_t> offsets_of(const std::vector<int32_t>& rows_E) {
  std::vector<int32_t> offsets;
  for (int32_t sum = 0; const int32_t rows : rows_E) offsets.push_back(sum += rows);
  return offsets;
}

/// Tokens of kWidth columns with two choices each, in permuted order, and the gathered rows.
struct GatheredCase {
  explicit GatheredCase(const Trial& trial)
      : mistake(trial.mistake), offsets(offsets_of(trial.rows_E)), R(offsets.back()) {
    for (int64_t r = 0; r < R; ++r) assignments.push_back(static_cast<int32_t>((r * 7 + 3) % (2 * ((R + 1) / 2))));
    const int64_t tokens = (R + 1) / 2;
    x = normal({tokens, kWidth}, at::kBFloat16, 1);
    gathered = x.index_select(0, at::tensor(assignments).to(at::kLong).floor_divide(2));
    gpu_x = x.to(at::kCUDA), gpu_gathered = gathered.to(at::kCUDA);
    gpu_assignments = at::tensor(assignments, at::kInt).to(at::kCUDA);
    gpu_offsets = at::tensor(offsets, at::kInt).to(at::kCUDA);
  }
  static constexpr int64_t kWidth = 256;
  /// `first`: the assignment of row 0; `top_k`: assignments of a token. Others than 0 and 2 are faults.
  hopper::GatheredRows gathered_rows(int first = 0, int top_k = 2) const {
    return {gpu_x.const_data_ptr<hopper::Element>(), static_cast<int32_t>(kWidth),
            gpu_assignments.const_data_ptr<int32_t>() + first, cutlass::FastDivmod(top_k)};
  }
  hopper::SortedRows sorted_rows() const {
    return {gpu_gathered.const_data_ptr<hopper::Element>(), static_cast<int32_t>(kWidth)};
  }
  template <class Rows>
  Loading<Rows> loading(const Rows& rows, const at::Tensor& out, int32_t tiles_m) const {
    return {.rows = rows,
            .tiles = {gpu_offsets.const_data_ptr<int32_t>(), static_cast<int32_t>(offsets.size()), tiles_m, 1, true},
            .K = kWidth,
            .out = out.data_ptr<hopper::Element>(),
            .mistake = mistake};
  }

  Mistake mistake;
  std::vector<int32_t> offsets, assignments;
  int64_t R;
  at::Tensor x, gathered, gpu_x, gpu_gathered, gpu_assignments, gpu_offsets;
};

at::Tensor stages(int64_t count) {
  return at::full({count, kTileM * kTileK}, -1, at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA));
}
using GatheredAlongM = hopper::RowsAlongM<hopper::GatheredRows>;
using SortedAlongM = hopper::RowsAlongM<hopper::SortedRows>;
constexpr int32_t kTilesM = GatheredCase::kWidth / kTileM;
constexpr int kStageBytes = kTileM * kTileK * sizeof(hopper::Element);

const std::vector<Trial> kTrials =
    trials({starts_a_row_late, misses_the_last_row, takes_the_tile_before}, {64, 65, 63});

/// What the stages of all tiles have to hold whose rows are along M.
at::Tensor stages_along_m(const GatheredCase& rows) {
  std::vector<at::Tensor> expected;
  for (size_t e = 0; e < rows.offsets.size(); ++e) {
    const int32_t begin = e == 0 ? 0 : rows.offsets[e - 1], end = rows.offsets[e];
    for (int32_t first = begin; first < end; first += kTileM) {
      std::vector<int64_t> of_tile;
      for (int32_t r = first; r < first + kTileM; ++r) of_tile.push_back(std::min(r, end - 1));
      const auto tile = rows.gathered.index_select(0, at::tensor(of_tile));
      for (int64_t k = 0; k < GatheredCase::kWidth; k += kTileK)
        expected.push_back(tile.narrow(1, k, kTileK).contiguous().view({kTileM * kTileK}));
    }
  }
  return at::stack(expected);
}
/// The same where they are along K.
at::Tensor stages_along_k(const GatheredCase& rows) {
  std::vector<at::Tensor> expected;
  for (size_t e = 0; e < rows.offsets.size(); ++e) {
    const int32_t begin = e == 0 ? 0 : rows.offsets[e - 1], end = rows.offsets[e];
    for (int32_t m = 0; m < kTilesM; ++m) {
      for (int32_t first = begin; first < end; first += kTileK) {
        auto tile = at::zeros({kTileK, kTileM}, at::kBFloat16);
        const int64_t count = std::min(kTileK, end - first);
        tile.narrow(0, 0, count).copy_(rows.gathered.narrow(0, first, count).narrow(1, m * kTileM, kTileM));
        expected.push_back(tile.view({kTileM * kTileK}));
      }
    }
  }
  return at::stack(expected);
}

template <class A, class Rows>
at::Tensor loaded(const GatheredCase& c, const Rows& rows, int64_t count, int32_t tiles_m) {
  const auto out = stages(count);
  load_stages<A><<<1, kLoadThreads, kStageBytes>>>(c.loading(rows, out, tiles_m));
  return out.cpu();
}
at::Tensor loaded_along_m(const GatheredCase& c, const hopper::GatheredRows& rows, int64_t count) {
  return loaded<GatheredAlongM>(c, rows, count, 0);
}
at::Tensor loaded_along_k(const GatheredCase& c, const hopper::GatheredRows& rows, int64_t count) {
  return loaded<hopper::RowsAlongK>(c, rows, count, kTilesM);
}

}  // namespace

TEST_CASE("tiles along M hold the rows of their expert, the last one repeated past its end", "[emulation]") {
  const Trial trial = GENERATE(from_range(kTrials));
  CAPTURE(trial.rows_E, trial.right());
  const GatheredCase rows(trial);
  const at::Tensor expected = stages_along_m(rows);
  CHECK(same_bits(loaded_along_m(rows, rows.gathered_rows(), expected.size(0)), expected) == trial.right());
  const auto sorted = loaded<SortedAlongM>(rows, rows.sorted_rows(), expected.size(0), 0);
  CHECK(same_bits(sorted, expected) == trial.right());
}

TEST_CASE("tiles along K are zero past the expert's last row, and an expert without rows has none", "[emulation]") {
  const Trial trial = GENERATE(from_range(kTrials));
  CAPTURE(trial.rows_E, trial.right());
  const GatheredCase rows(trial);
  const at::Tensor expected = stages_along_k(rows);
  CHECK(same_bits(loaded_along_k(rows, rows.gathered_rows(), expected.size(0)), expected) == trial.right());
}

TEST_CASE("planted: assignments taken for those of other tokens are noticed", "[emulation]") {
  const GatheredCase rows({{0, 300, 3}});
  const hopper::GatheredRows wrong = rows.gathered_rows(0, /*top_k=*/3);
  const at::Tensor along_m = stages_along_m(rows), along_k = stages_along_k(rows);
  CHECK_FALSE(same_bits(loaded_along_m(rows, wrong, along_m.size(0)), along_m));
  CHECK_FALSE(same_bits(loaded_along_k(rows, wrong, along_k.size(0)), along_k));
}

// These end the program, as those of planted_faults.cu do.
TEST_CASE("planted: gathered_row_off_by_one", "[.planted]") {
  const GatheredCase rows({{0, 300, 3}});
  loaded_along_m(rows, rows.gathered_rows(/*first=*/1), stages_along_m(rows).size(0));
}
TEST_CASE("planted: gathered_row_of_a_slot", "[.planted]") {
  const GatheredCase rows({{0, 300, 3}});
  loaded_along_k(rows, rows.gathered_rows(0, /*top_k=*/1), stages_along_k(rows).size(0));
}

TEST_CASE("atomic_add_vector adds one and two values", "[emulation]") {
  const at::Tensor x = normal({96}, at::kFloat, 1), y = normal({96}, at::kFloat, 2);
  const at::Tensor sum = x.to(at::kCUDA), addend = y.to(at::kCUDA);
  add_runs<<<1, 32>>>(sum.data_ptr<float>(), addend.const_data_ptr<float>());
  CHECK(same_bits(sum.cpu(), x + y));
}
