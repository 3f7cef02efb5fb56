#include "kernels/permute_index.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/randint.h>

#include <bit>
#include <utility>

#include "kernels/compare.h"
#include "kernels/permute.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// The steps of the three kernels of permute.cu, one lane after the other, with their chunks, tiles and ranks.
struct LaneByLaneSort {
  std::vector<int32_t> assignment_R, row_R;

  LaneByLaneSort(const int32_t* expert_R, int64_t R, int64_t E)
      : assignment_R(R),
        row_R(R),
        expert_R_(expert_R),
        R_(R),
        E_(E),
        chunks_(chunks_of(R)),
        next_CE_(chunks_.count * E) {
    for (int64_t i = 0; i < R; ++i) ++next_CE_[i / chunks_.rows * E + expert_R[i]];
    int32_t before = 0;
    for (int64_t e = 0; e < E; ++e)
      for (int64_t c = 0; c < chunks_.count; ++c) {
        const int32_t count = std::exchange(next_CE_[c * E + e], before);
        before += count;
      }
    for (int64_t c = 0; c < chunks_.count; ++c)
      for (int64_t i = c * chunks_.rows; i < std::min(R, (c + 1) * chunks_.rows); i += kLanes) place(c, i);
  }

 private:
  /// 32 assignments of one chunk at a time.
  void place(int64_t c, int64_t first) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, R_ - first));
    int32_t* const next_E = next_CE_.data() + c * E_;
    std::vector<int32_t> moved(next_E, next_E + E_);
    for (int lane = 0; lane < lanes; ++lane) {
      uint32_t peers = 0;
      for (int other = 0; other < lanes; ++other)
        if (expert_R_[first + other] == expert_R_[first + lane]) peers |= 1u << other;
      const int32_t expert = expert_R_[first + lane], row = next_E[expert] + rank_among(peers, lane);
      moved[expert] = next_E[expert] + std::popcount(peers);
      assignment_R[row] = static_cast<int32_t>(first + lane);
      row_R[first + lane] = row;
    }
    std::copy(moved.begin(), moved.end(), next_E);
  }

  const int32_t* expert_R_;
  int64_t R_, E_;
  Chunks chunks_;
  std::vector<int32_t> next_CE_;
};

}  // namespace

TEST_CASE("chunks cover all assignments, and a warp can scan them", "[kernels]") {
  const int64_t R = GENERATE(0, 1, kTileRows, 2 * kTileRows + 1, 131072, 262145, 1000003, (int64_t{1} << 31) - 1);
  CAPTURE(R);
  const Chunks chunks = chunks_of(R);
  CHECK(chunks.rows % kTileRows == 0);
  CHECK((chunks.count >= 1 && chunks.count <= kMaxChunks));
  CHECK(chunks.count * chunks.rows >= R);
  CHECK((chunks.count - 1) * chunks.rows <= std::max<int64_t>(0, R - 1));
}

TEST_CASE("rank_among counts the lower lanes", "[kernels]") {
  CHECK(rank_among(0xffffffffu, 0) == 0);
  CHECK(rank_among(0xffffffffu, 31) == 31);
  CHECK(rank_among(0x80000001u, 31) == 1);
  CHECK(rank_among(0b1010100u, 6) == 2);
}

TEST_CASE("the GPU's sort, run lane by lane, is the stable sort", "[kernels]") {
  const auto [N, K, E] =
      GENERATE(table<int64_t, int64_t, int64_t>({{1, 1, 1}, {100, 4, 16}, {700, 3, 5}, {33, 8, 1000}, {40000, 8, 64}}));
  CAPTURE(N, K, E);
  at::Generator generator = at::detail::createCPUGenerator(7);
  const at::Tensor ids = at::randint(E, {N, K}, generator, at::TensorOptions().dtype(at::kInt));
  LaneByLaneSort sort(ids.const_data_ptr<int32_t>(), N * K, E);
  const Permutation expected = sort_by_expert(ids, E);
  CHECK(same_bits(at::from_blob(sort.assignment_R.data(), {N * K}, at::kInt), expected.assignment_R));
  CHECK(same_bits(at::from_blob(sort.row_R.data(), {N, K}, at::kInt), expected.row_NK));
}
