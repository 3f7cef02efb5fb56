// Shapes: W ranks, N elements of a part.
// Sums over ranks are the same from host memory, tile by tile, and from tensors, part by part.
#include "parallel/collectives/rank_sum.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

constexpr int64_t kParts[] = {0, 1, 1023, 5000};
constexpr std::pair<at::ScalarType, at::ScalarType> kWider[] = {
    {at::kBFloat16, at::kFloat}, {at::kFloat, at::kDouble}, {at::kFloat, at::kFloat}};

}  // namespace

TEST_CASE("tensors are summed in rank order to the bits of host memory, in the wider type") {
  const int ranks = GENERATE(1, 2, 5);
  for (const auto& [in, out] : kWider)
    for (const int64_t N : kParts) {
      const at::Tensor parts_Pn = draw(3, {ranks, N}, in);
      std::vector<const std::byte*> parts;
      for (int r = 0; r < ranks; ++r) parts.push_back(static_cast<const std::byte*>(parts_Pn[r].const_data_ptr()));
      const at::Tensor expected = at::zeros({N}, out), actual = at::zeros({N}, out);
      reduce_in_rank_order({static_cast<std::byte*>(expected.data_ptr()), out, N}, parts, in, Reduce::sum);
      sum_in_rank_order(actual, parts_Pn);
      check_same_bits(actual, expected, "sum_in_rank_order");
    }
  CHECK_THROWS_AS(sum_in_rank_order(at::zeros({2}, at::kBFloat16), at::zeros({2, 2}, at::kFloat)), Error);
}

TEST_CASE("parts that are exchanged narrow and summed wide are a reduce_scatter") {
  const int ranks = GENERATE(2, 3, 4);
  run_ranks(ranks, [&](Communicator& world) {
    ENSURE(world.size() == ranks, "{} ranks", world.size());
    const std::vector<int64_t> one_each(static_cast<size_t>(ranks), 1);
    for (const auto& [in, out] : kWider)
      for (const int64_t N : kParts) {
        const at::Tensor mine_Pn = draw(world.rank(), {ranks, N}, in);
        at::Tensor parts_Pn = at::empty({ranks, N}, in);
        world.all_to_all(parts_Pn, mine_Pn, one_each, one_each);
        const at::Tensor actual = at::zeros({N}, out), expected = at::zeros({N}, out);
        sum_in_rank_order(actual, parts_Pn);
        world.reduce_scatter(expected, mine_Pn);
        check_same_bits(actual, expected, "exchange and sum");
      }
  });
}
