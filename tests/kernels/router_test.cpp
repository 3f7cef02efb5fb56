#include "kernels/router.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// A scalar that reaches the logits by all three ways, in float64.
at::Tensor reference_objective(const at::Tensor& logits, const at::Tensor& ids, bool renormalize,
                               const at::Tensor& dscores, const at::Tensor& dprobs_UE, double lse_scale) {
  const int64_t N = logits.size(0), E = logits.size(1), U = dprobs_UE.size(0);
  const at::Tensor probs = logits.softmax(1);
  at::Tensor scores = probs.gather(1, ids.to(at::kLong));
  if (renormalize) scores = scores / scores.sum(1, true);
  const at::Tensor weights = dprobs_UE.to(at::kDouble).unsqueeze(1).expand({U, N / U, E}).reshape({N, E});
  return (scores * dscores.to(at::kDouble)).sum() + (probs * weights).sum() +
         0.5 * lse_scale * logits.logsumexp({1}).pow(2).sum();
}

}  // namespace

TEST_CASE("route and its gradient equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool renormalize = GENERATE(false, true);
  const auto [N, E, K, U] = GENERATE(
      table<int64_t, int64_t, int64_t, int64_t>({{1, 1, 1, 1}, {60, 17, 3, 4}, {6, 512, 512, 1}, {40, 64, 8, 2}}));
  CAPTURE(dtype, renormalize, N, E, K, U);
  const at::Tensor logits = (2 * normal({N, E + 1}, dtype, 1)).narrow(1, 0, E);
  const auto stats = statistics_dtype(dtype);
  const at::Tensor logits_ref = reference(logits);
  const at::Tensor probs_ref = logits_ref.softmax(1).detach();

  const RouterOutput out = route(logits, K, U, renormalize, {});
  REQUIRE(out.probs_NE.scalar_type() == stats);
  REQUIRE(out.ids_NK.scalar_type() == at::kInt);
  CHECK(relative_error(out.probs_NE, probs_ref) < bound(stats, E));
  CHECK(relative_error(out.lse_N, logits_ref.logsumexp({1})) < bound(stats, E));
  const at::Tensor order = std::get<1>(out.probs_NE.sort(/*stable=*/true, 1, /*descending=*/true)).narrow(1, 0, K);
  CHECK(same_bits(out.ids_NK, order.to(at::kInt)));
  at::Tensor scores_ref = probs_ref.gather(1, order);
  if (renormalize) scores_ref = scores_ref / scores_ref.sum(1, true);
  CHECK(relative_error(out.scores_NK, scores_ref) < bound(stats, E));
  for (int64_t g = 0; g < U; ++g)
    CHECK(same_bits(out.counts_UE[g], order.narrow(0, g * N / U, N / U).flatten().bincount({}, E)));

  const at::Tensor dscores = normal({N, K}, stats, 2), dprobs = normal({U, E}, stats, 3);
  reference_objective(logits_ref, out.ids_NK, renormalize, dscores, dprobs, 0.3).backward();
  const at::Tensor dlogits = route_backward(dscores, dprobs, at::full({}, 0.3, at::kDouble), out, renormalize);
  CHECK(relative_error(dlogits, logits_ref.grad()) < bound(stats, E) * 4);
}

TEST_CASE("without a load-balancing gradient only scores and logsumexp count", "[kernels]") {
  const RouterOutput out = route(normal({10, 6}, at::kDouble, 4), 2, 1, true, {});
  const at::Tensor dscores = normal({10, 2}, at::kDouble, 5);
  CHECK(same_bits(route_backward(dscores, {}, at::full({}, 0.1, at::kDouble), out, true),
                  route_backward(dscores, at::zeros({1, 6}, at::kDouble), at::full({}, 0.1, at::kDouble), out, true)));
}

TEST_CASE("ties go to the lower index", "[kernels]") {
  const RouterOutput flat = route(at::zeros({3, 7}), 4, 1, false, {});
  CHECK(same_bits(flat.ids_NK, at::tensor({0, 1, 2, 3}, at::kInt).expand({3, 4})));
  const RouterOutput some = route(at::tensor({1.f, 5.f, 1.f, 5.f, 5.f}).unsqueeze(0), 4, 1, false, {});
  CHECK(same_bits(some.ids_NK, at::tensor({1, 3, 4, 0}, at::kInt).unsqueeze(0)));
}

TEST_CASE("a given choice is kept, and the rest is computed from it", "[kernels]") {
  const at::Tensor logits = normal({12, 8}, at::kFloat, 6);
  const RouterOutput chosen = route(logits, 2, 3, true, {});
  const RouterOutput again = route(logits, 2, 3, true, chosen.ids_NK);
  CHECK(same_bits(again.ids_NK, chosen.ids_NK));
  CHECK(same_bits(again.scores_NK, chosen.scores_NK));
  CHECK(same_bits(again.counts_UE, chosen.counts_UE));
  const at::Tensor worst = at::tensor({7, 6}, at::kInt).expand({12, 2});
  const RouterOutput forced = route(logits, 2, 1, false, worst);
  CHECK(same_bits(forced.scores_NK, forced.probs_NE.narrow(1, 6, 2).flip({1})));
  CHECK_THROWS_AS(route(logits, 2, 1, false, at::full({12, 2}, 8, at::kInt)), olmoe::Error);
}

TEST_CASE("extreme logits stay finite", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor logits = at::tensor({80., -80., 79., 0.}, at::kDouble).to(dtype).unsqueeze(0);
  const RouterOutput out = route(logits, 3, 1, true, {});
  CHECK(same_bits(out.ids_NK, at::tensor({0, 2, 3}, at::kInt).unsqueeze(0)));
  CHECK(relative_error(out.probs_NE, logits.to(at::kDouble).softmax(1)) < bound(statistics_dtype(dtype), 4));
  CHECK(relative_error(out.lse_N, logits.to(at::kDouble).logsumexp({1})) < bound(statistics_dtype(dtype), 4));
  const at::Tensor ones = at::ones({1, 3}, at::TensorOptions().dtype(statistics_dtype(dtype)));
  CHECK(route_backward(ones, {}, at::full({}, 1, at::kDouble), out, true).isfinite().all().item<bool>());
}

TEST_CASE("route of no tokens", "[kernels]") {
  const RouterOutput out = route(at::empty({0, 4}), 2, 1, false, {});
  CHECK(same_bits(out.counts_UE, at::zeros({1, 4}, at::kLong)));
  CHECK(route_backward(at::empty({0, 2}), at::zeros({1, 4}), at::full({}, 1, at::kDouble), out, false).sizes() ==
        at::IntArrayRef({0, 4}));
}

TEST_CASE("route gives a NaN row valid ids and NaN scores", "[kernels]") {
  const RouterOutput out = route(at::full({1, 5}, std::nan("")), 3, 1, false, {});
  CHECK(same_bits(out.ids_NK, at::tensor({0, 1, 2}, at::kInt).unsqueeze(0)));
  CHECK(out.scores_NK.isnan().all().item<bool>());
}

TEST_CASE("route refuses invalid arguments", "[kernels]") {
  CHECK_THROWS_AS(route(at::zeros({4, 3}), 4, 1, false, {}), olmoe::Error);
  CHECK_THROWS_AS(route(at::zeros({4, 3}), 0, 1, false, {}), olmoe::Error);
  CHECK_THROWS_AS(route(at::zeros({4, 3}), 2, 3, false, {}), olmoe::Error);
}
