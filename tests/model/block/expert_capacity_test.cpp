// Which assignments an expert with a capacity keeps.
#include "model/block/expert_capacity.h"

#include <ATen/ATen.h>

#include "support/catch.h"
#include "support/kept_assignments.h"

namespace {

using namespace olmoe;

at::Tensor ids(std::vector<int> values, int64_t top_k) { return at::tensor(values, at::kInt).view({-1, top_k}); }

}  // namespace

TEST_CASE("expert capacity is the factor times the mean number of assignments, rounded up") {
  CHECK(expert_capacity(1.0, 24, 6) == 4);
  CHECK(expert_capacity(1.0, 25, 6) == 5);
  CHECK(expert_capacity(1.1, 50 * 6, 6) == 55);  // in binary a little more
  CHECK(expert_capacity(1.25, 4096 * 8, 64) == 640);
  CHECK(expert_capacity(0.5, 1, 6) == 1);
  CHECK(expert_capacity(2.0, 0, 6) == 0);
}

TEST_CASE("by position an expert keeps the first tokens, by score the highest, of equal scores the first tokens") {
  const auto ids_NK = ids({0, 1, 0, 2, 0, 1, 0, 2}, 2);
  const auto scores_NK = at::tensor({.5, .1, .2, .3, .5, .4, .6, .3}, at::kDouble).view({4, 2});
  CHECK(at::equal(drop_overflow(ids_NK, {}, 3, 1), ids({0, 1, -1, 2, -1, -1, -1, -1}, 2)));
  CHECK(at::equal(drop_overflow(ids_NK, scores_NK, 3, 1), ids({-1, -1, -1, 2, -1, 1, 0, -1}, 2)));
  CHECK(at::equal(drop_overflow(ids_NK, scores_NK, 3, 2), ids({0, 1, -1, 2, -1, 1, 0, 2}, 2)));
  CHECK(at::equal(drop_overflow(ids_NK, scores_NK, 3, 4), ids_NK));
  const auto none = at::empty({0, 2}, at::kInt), no_scores = at::empty({0, 2}, at::kDouble);
  CHECK(drop_overflow(none, no_scores, 3, 0).numel() == 0);
}

TEST_CASE("by score an expert keeps what a sort of its tokens has first, of random scores with many equal ones") {
  at::manual_seed(4);
  constexpr int64_t kTokens = 200, kExperts = 7, kChosen = 3;
  const auto scores_NE = at::randint(1, 9, {kTokens, kExperts}, at::kDouble) / 8;
  const auto ids_NK = at::rand({kTokens, kExperts}).argsort(int64_t{1}).slice(1, 0, kChosen).to(at::kInt).contiguous();
  const auto longs_NK = ids_NK.to(at::kLong);
  const auto chosen_NE = at::zeros_like(scores_NE).scatter(1, longs_NK, 1.0);
  for (const int64_t capacity : {1, 30, 85, 200}) {
    const auto ours_NK = drop_overflow(ids_NK, scores_NE.gather(1, longs_NK).contiguous(), kExperts, capacity);
    const auto kept_NE = test::kept(scores_NE * chosen_NE, chosen_NE, static_cast<double>(capacity));
    CHECK(at::equal(ours_NK >= 0, kept_NE.gather(1, longs_NK) > 0));
    CHECK(at::equal(ours_NK.masked_select(ours_NK >= 0), ids_NK.masked_select(ours_NK >= 0)));
  }
}

TEST_CASE("experts choose their best tokens of each scope, of equal scores the first tokens; a token may have none") {
  const auto scores_NE = at::tensor({.5, .2, .5, .2, .5, .2, .1, .9}, at::kDouble).view({4, 2});
  CHECK(at::equal(chosen_by_experts(scores_NE, 1, 2), ids({0, 1, 0, -1, -1, -1, -1, 1}, 2)));
  CHECK(at::equal(chosen_by_experts(scores_NE, 2, 1), ids({0, 1, -1, -1, 0, -1, -1, 1}, 2)));
  CHECK(at::equal(chosen_by_experts(scores_NE, 1, 4), all_experts(4, 2, at::kCPU)));
  CHECK(chosen_by_experts(scores_NE.narrow(0, 0, 0), 1, 0).numel() == 0);
}
