#include "kernels/permute.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

at::Tensor random_ids(int64_t N, int64_t K, int64_t E, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randint(E, {N, K}, generator, at::TensorOptions().dtype(at::kInt));
}

}  // namespace

TEST_CASE("sort_by_expert is a stable sort with its inverse and offsets", "[kernels]") {
  const auto [N, K, E] = GENERATE(table<int64_t, int64_t, int64_t>({{1, 1, 1}, {100, 4, 16}, {7, 2, 512}}));
  CAPTURE(N, K, E);
  const at::Tensor ids = random_ids(N, K, E, 1);
  const Permutation sorted = sort_by_expert(ids, E);
  const auto [values, order] = ids.flatten().sort(/*stable=*/true, 0, false);
  CHECK(same_bits(sorted.assignment_R, order.to(at::kInt)));
  CHECK(same_bits(sorted.row_NK.flatten(), order.argsort().to(at::kInt)));
  const at::Tensor counts = ids.flatten().to(at::kLong).bincount({}, E);
  CHECK(same_bits(sorted.offsets_E, counts.cumsum(0).to(at::kInt)));
}

TEST_CASE("all rows go to one expert, or there are no rows", "[kernels]") {
  const Permutation one = sort_by_expert(at::full({5, 1}, 3, at::kInt), 6);
  CHECK(same_bits(one.offsets_E, at::tensor({0, 0, 0, 5, 5, 5}, at::kInt)));
  CHECK(same_bits(one.assignment_R, at::arange(5, at::kInt)));
  const Permutation none = sort_by_expert(at::empty({0, 2}, at::kInt), 4);
  CHECK(same_bits(none.offsets_E, at::zeros({4}, at::kInt)));
  CHECK(gather_rows(at::empty({0, 3}), none).sizes() == at::IntArrayRef({0, 3}));
  CHECK(combine_rows(at::empty({0, 3}), none, {}).sizes() == at::IntArrayRef({0, 3}));
  CHECK(to_rows(at::empty({0, 2}), none).sizes() == at::IntArrayRef({0}));
}

TEST_CASE("gather_rows and combine_rows are transposes of each other", "[kernels][openmp]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const int64_t N = 53, K = 3, E = 8, D = GENERATE(1, 17, 300);
  CAPTURE(dtype, D);
  const Permutation sorted = sort_by_expert(random_ids(N, K, E, 2), E);
  const at::Tensor x = normal({N, D + 2}, dtype, 3).narrow(1, 1, D);
  const at::Tensor gathered = gather_rows(x, sorted);
  CHECK(same_bits(gathered, x.index_select(0, sorted.assignment_R.to(at::kLong).floor_divide(K))));

  const at::Tensor y = normal({N * K, D}, dtype, 4), residual = normal({N, D + 1}, dtype, 5).narrow(1, 0, D);
  const at::Tensor by_token =
      y.to(at::kDouble).index_select(0, sorted.row_NK.flatten().to(at::kLong)).view({N, K, D}).sum(1);
  CHECK(relative_error(combine_rows(y, sorted, {}), by_token) < bound(dtype, K));
  CHECK(relative_error(combine_rows(y, sorted, residual), by_token + residual.to(at::kDouble)) < bound(dtype, K));
  const TwoThreads two;
  CHECK(same_bits(combine_rows(y, sorted, residual), combine_rows(y, sorted, residual)));
}

TEST_CASE("combine_rows adds in the order of k", "[kernels]") {
  // In fp32, (1e8 + 1) - 1e8 is 0 but (1e8 - 1e8) + 1 is 1: only the order of k gives 0 for both
  // tokens.
  const at::Tensor ids = at::tensor({0, 1, 2, 2, 1, 0}, at::kInt).view({2, 3});
  const Permutation sorted = sort_by_expert(ids, 3);
  at::Tensor by_assignment = at::tensor({1e8f, 1.f, -1e8f, 1e8f, 1.f, -1e8f}),
             y = to_rows(by_assignment.view({2, 3}), sorted);
  CHECK(same_bits(combine_rows(y.unsqueeze(1), sorted, {}), at::zeros({2, 1})));
  CHECK(same_bits(to_assignments(y, sorted), by_assignment.view({2, 3})));
}

TEST_CASE("sort_by_expert refuses an expert that does not exist", "[kernels]") {
  CHECK_THROWS_AS(sort_by_expert(at::full({2, 2}, 4, at::kInt), 4), olmoe::Error);
  CHECK_THROWS_AS(sort_by_expert(at::full({2, 2}, -1, at::kInt), 4), olmoe::Error);
  const Permutation sorted = sort_by_expert(at::zeros({2, 2}, at::kInt), 1);
  CHECK_THROWS_AS(gather_rows(at::zeros({3, 4}), sorted), olmoe::Error);
  CHECK_THROWS_AS(combine_rows(at::zeros({3, 4}), sorted, {}), olmoe::Error);
}

TEST_CASE("an assignment without a row is ignored") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor ids = at::tensor({2, -1, -1, -1, 0, 2}, at::kInt).view({3, 2});
  const Permutation sorted = sort_by_expert(ids, 3, 3);
  CHECK(same_bits(sorted.assignment_R, at::tensor({4, 0, 5}, at::kInt)));
  CHECK(same_bits(sorted.row_NK, at::tensor({1, -1, -1, -1, 0, 2}, at::kInt).view({3, 2})));
  CHECK(same_bits(sorted.offsets_E, at::tensor({1, 1, 3}, at::kInt)));

  const at::Tensor x = normal({3, 5}, dtype, 1), y = normal({3, 5}, dtype, 2);
  CHECK(same_bits(gather_rows(x, sorted), x.index_select(0, at::tensor({2, 0, 2}, at::kLong))));
  const at::Tensor sums = combine_rows(y, sorted, x).to(at::kDouble), exact = x.to(at::kDouble).clone();
  exact[0] += y[1].to(at::kDouble);
  exact[2] += y[0].to(at::kDouble) + y[2].to(at::kDouble);
  CHECK(relative_error(sums, exact) < bound(dtype, 2));
  CHECK(same_bits(sums[1].to(dtype), x[1]));
  const at::Tensor values = at::tensor({7.0, 8.0, 9.0}, at::kDouble);
  const auto expected = at::tensor({8.0, 0.0, 0.0, 0.0, 7.0, 9.0}, at::kDouble).view({3, 2});
  CHECK(same_bits(to_assignments(values, sorted), expected));
  CHECK_THROWS_AS(sort_by_expert(ids, 3), olmoe::Error);     // without `rows`, all must have an expert
  CHECK_THROWS_AS(sort_by_expert(ids, 3, 2), olmoe::Error);  // `rows` is wrong
}
