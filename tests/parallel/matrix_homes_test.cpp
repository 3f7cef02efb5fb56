#include "parallel/matrix_homes.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "support/catch.h"

namespace {

using namespace olmoe;

/// `count` matrices of one shape, one after another, in shards of equal size.
MatrixUnit unit_of(int ranks, int64_t count, int64_t rows, int64_t cols) {
  MatrixUnit unit{ranks, 0, {}};
  for (int64_t i = 0; i < count; ++i) unit.matrices.push_back({i * rows * cols, rows, cols});
  unit.shard_numel = (count * rows * cols + ranks - 1) / ranks;
  return unit;
}

double total_flops(const std::vector<MatrixUnit>& units) {
  double sum = 0;
  for (const auto& unit : units)
    for (const auto& matrix : unit.matrices) sum += newton_schulz_flops(matrix.rows, matrix.cols);
  return sum;
}

}  // namespace

TEST_CASE("FLOPs of a Newton-Schulz step: two products over the longer side, one square of the shorter") {
  CHECK(newton_schulz_flops(3, 5) == 2. * 3 * 3 * 5 + 2. * 3 * 3 * 3 + 2. * 3 * 3 * 5);
  CHECK(newton_schulz_flops(5, 3) == newton_schulz_flops(3, 5));
}

TEST_CASE("matrices that shards hold whole stay where they are, and a rank alone is home of all") {
  const std::vector units{unit_of(4, 8, 4, 6), unit_of(4, 4, 3, 3)};
  CHECK(plan_homes(units) == MatrixHomes{{0, 0, 1, 1, 2, 2, 3, 3}, {0, 1, 2, 3}});
  const std::vector alone{unit_of(1, 3, 4, 6)};
  CHECK(plan_homes(alone) == MatrixHomes{{0, 0, 0}});
  CHECK(plan_homes({}).empty());
}

TEST_CASE("a matrix goes to the rank that has most of it, where that rank is not busy") {
  // Shards of 30: 20 + 4 of the first pair, and so on; the largest part of matrix 1 is with rank 1.
  const std::vector units{MatrixUnit{3, 30, {{0, 4, 5}, {20, 5, 6}, {50, 4, 5}, {70, 4, 5}}}};
  const auto homes = plan_homes(units);
  CHECK(homes[0][1] == 1);
  CHECK(homes[0][0] == 0);
  CHECK(homes[0][3] == 2);
  // All in the shard of one rank: it cannot be home of all.
  const std::vector crowded{MatrixUnit{4, 96, {{0, 4, 6}, {24, 4, 6}, {48, 4, 6}, {72, 4, 6}}}};
  auto of_crowded = plan_homes(crowded)[0];
  CHECK(of_crowded[0] == 0);
  std::ranges::sort(of_crowded);
  CHECK(of_crowded == std::vector{0, 1, 2, 3});
}

TEST_CASE("OLMoE-1B-7B's matrices are balanced over 256 ranks, with experts together or apart") {
  const int expert = GENERATE(1, 8, 64);
  std::vector<MatrixUnit> units;
  for (int layer = 0; layer < 16; ++layer) {
    units.push_back(unit_of(256, 4, 2048, 2048));
    units.push_back(unit_of(256 / expert, 192 / expert, 1024, 2048));
  }
  const auto homes = plan_homes(units);
  CHECK(homes == plan_homes(units));
  const auto flops = flops_of_ranks(units, homes);
  REQUIRE(flops.size() == 256);
  double average = 0;
  for (const auto& unit : units) average += total_flops({unit}) / unit.ranks;
  CHECK(std::accumulate(flops.begin(), flops.end(), 0.0) / 256 == Approx(average).epsilon(1e-12));
  CAPTURE(expert);
  // 64 dense matrices on 256 ranks: where experts are shared by fewer ranks, their homes come first, and nothing evens
  // out those.
  CHECK(std::ranges::max(flops) <= (expert == 1 ? 1.1 * average : average + newton_schulz_flops(2048, 2048)));
}

TEST_CASE("ranks of a smaller group count for several of the largest, and what they do is known there") {
  // Two ranks share each half of the experts; rank 0's and 2's matrix is large, so dense ones go to ranks 1 and 3.
  const std::vector units{MatrixUnit{4, 50, {{0, 5, 10}, {50, 5, 10}}}, MatrixUnit{2, 400, {{0, 20, 20}}}};
  const auto homes = plan_homes(units);
  CHECK(homes[1] == std::vector{0});
  CHECK(homes[0] == std::vector{2, 3});
  const auto flops = flops_of_ranks(units, homes);
  CHECK(flops[0] == newton_schulz_flops(20, 20));
  CHECK(flops[0] == flops[1]);
  CHECK(flops[2] == newton_schulz_flops(5, 10));
  CHECK_THROWS_AS(plan_homes(std::vector{unit_of(4, 1, 2, 2), unit_of(3, 1, 2, 2)}), Error);
}

TEST_CASE("an exchange carries every element of every matrix to its home, in an order that both sides know") {
  const int ranks = GENERATE(1, 2, 3, 5, 8);
  const std::vector units{unit_of(ranks, 3, 4, 7), unit_of(ranks, 5, 6, 2),
                          MatrixUnit{ranks, 64 / ranks + 9, {{8, 3, 5}, {24, 5, 7}}}};
  const auto homes = plan_homes(units);
  std::vector<MatrixExchange> of_ranks;
  for (int rank = 0; rank < ranks; ++rank) of_ranks.push_back(plan_exchange(units, homes, rank));
  const auto shares = shares_of_ranks(units, homes);
  std::vector<std::vector<std::vector<int>>> seen;  // of each element of each matrix, how often
  for (const auto& unit : units) {
    auto& of_unit = seen.emplace_back();
    for (const auto& matrix : unit.matrices) of_unit.emplace_back(static_cast<size_t>(matrix.numel()));
  }
  for (int home = 0; home < ranks; ++home) {
    const auto& at_home = of_ranks[static_cast<size_t>(home)];
    size_t next = 0;
    for (int from = 0; from < ranks; ++from) {
      const auto& sender = of_ranks[static_cast<size_t>(from)];
      CHECK(sender.sent[static_cast<size_t>(home)] == at_home.received[static_cast<size_t>(from)]);
      int64_t left = at_home.received[static_cast<size_t>(from)];
      for (const auto& piece : sender.sent_pieces) {
        if (homes[piece.unit][piece.matrix] != home) continue;
        const auto& other = at_home.home_pieces.at(next++);
        CHECK(std::tie(other.unit, other.matrix, other.in_matrix, other.numel) ==
              std::tie(piece.unit, piece.matrix, piece.in_matrix, piece.numel));
        const auto& unit = units[piece.unit];
        CHECK(piece.in_shard + from * unit.shard_numel == unit.matrices[piece.matrix].begin + piece.in_matrix);
        CHECK(piece.in_shard + piece.numel <= unit.shard_numel);
        left -= piece.numel;
        for (int64_t i = 0; i < piece.numel; ++i)
          ++seen[piece.unit][piece.matrix].at(static_cast<size_t>(piece.in_matrix + i));
      }
      CHECK(left == 0);
    }
    CHECK(next == at_home.home_pieces.size());
    const auto& share = shares[static_cast<size_t>(home)];
    CHECK(share.held == std::accumulate(at_home.sent.begin(), at_home.sent.end(), int64_t{0}));
    CHECK(share.homed == std::accumulate(at_home.received.begin(), at_home.received.end(), int64_t{0}));
    CHECK(share.kept == at_home.sent[static_cast<size_t>(home)]);
  }
  for (const auto& of_unit : seen)
    for (const auto& of_matrix : of_unit) CHECK(std::ranges::count(of_matrix, 1) == std::ssize(of_matrix));
}
