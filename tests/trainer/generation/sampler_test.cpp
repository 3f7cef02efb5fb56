// Distributions against hand-computed ones, and counts over many draws.
#include "trainer/generation/sampler.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "support/catch.h"

using namespace olmoe;
using Catch::Contains;

namespace {

/// Logits of probabilities 0.1, 0.4, 0.2, 0.05, 0.25, shifted by a constant.
at::Tensor five_logits() { return at::tensor({0.1, 0.4, 0.2, 0.05, 0.25}, at::kDouble).log() + 3; }

using Expected = std::vector<std::pair<int64_t, double>>;

void check_distribution(const Sampling& sampling, const Expected& expected) {
  const auto tokens = token_distribution(five_logits(), sampling);
  REQUIRE(tokens.size() == expected.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    CAPTURE(i);
    CHECK(tokens[i].id == expected[i].first);
    CHECK(tokens[i].probability == Approx(expected[i].second).epsilon(1e-12));
  }
}

}  // namespace

TEST_CASE("the greedy token has the highest logit, and of equal ones the lowest id") {
  CHECK(greedy_token(five_logits()) == 1);
  CHECK(greedy_token(at::tensor({-2.0F, 7.0F, 1.0F, 7.0F}).to(at::kBFloat16)) == 1);
  CHECK(next_token(five_logits(), {}, 0.999) == 1);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto logits = five_logits();
    logits[3] = bad;
    CHECK_THROWS_WITH(greedy_token(logits), Contains("the logit of token 3 is"));
    CHECK_THROWS_WITH(token_distribution(logits, {.temperature = 1}), Contains("the logit of token 3 is"));
  }
}

TEST_CASE("distributions with temperature, top-k and top-p equal those by hand") {
  check_distribution({.temperature = 1}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.05}, {4, 0.25}});
  // p^2 / sum p^2: squares 0.01, 0.16, 0.04, 0.0025, 0.0625 of sum 0.275.
  check_distribution(
      {.temperature = 0.5},
      {{0, 0.01 / 0.275}, {1, 0.16 / 0.275}, {2, 0.04 / 0.275}, {3, 0.0025 / 0.275}, {4, 0.0625 / 0.275}});
  check_distribution({.temperature = 1, .top_k = 2}, {{1, 0.4 / 0.65}, {4, 0.25 / 0.65}});
  check_distribution({.temperature = 1, .top_k = 9}, {{1, 0.4}, {4, 0.25}, {2, 0.2}, {0, 0.1}, {3, 0.05}});
  // 0.4 + 0.25 = 0.65 is below 0.7, with 0.2 it is not.
  check_distribution({.temperature = 1, .top_p = 0.7}, {{1, 0.4 / 0.85}, {4, 0.25 / 0.85}, {2, 0.2 / 0.85}});
  check_distribution({.temperature = 1, .top_p = 0.3}, {{1, 1.0}});
  // Of what top-k leaves, 0.4 / 0.65 = 0.615: with top_p 0.6 one token, with 0.62 both.
  check_distribution({.temperature = 1, .top_k = 2, .top_p = 0.6}, {{1, 1.0}});
  check_distribution({.temperature = 1, .top_k = 2, .top_p = 0.62}, {{1, 0.4 / 0.65}, {4, 0.25 / 0.65}});
}

TEST_CASE("tokens of equal logits are kept by falling id last") {
  const auto tokens = token_distribution(at::zeros({6}, at::kFloat), {.temperature = 1, .top_k = 3});
  REQUIRE(tokens.size() == 3);
  for (size_t i = 0; i < 3; ++i) CHECK(tokens[i].id == static_cast<int64_t>(i));
}

TEST_CASE("a draw takes the token at its place of the cumulative distribution") {
  const std::vector<TokenProbability> tokens{{7, 0.25}, {2, 0.5}, {5, 0.25}, {9, 0.0}};
  const std::map<double, int64_t> expected{{1e-12, 7}, {0.2499, 7}, {0.25, 2}, {0.7499, 2}, {0.75, 5}, {0.9999, 5}};
  for (const auto& [uniform, id] : expected) {
    CAPTURE(uniform);
    CHECK(draw_token(tokens, uniform) == id);
  }
  // Where roundings leave the sum below 1, a token without probability is not drawn.
  CHECK(draw_token(std::vector<TokenProbability>{{7, 0.5}, {2, 0.4}, {9, 0.0}}, 0.95) == 2);
}

TEST_CASE("counts over many draws are those of the distribution") {
  constexpr int64_t kDraws = 40'000;
  const Sampling sampling{.temperature = 0.8, .top_k = 4, .top_p = 0.97, .seed = 11};
  const RandomStream random(sampling.seed, "draws");
  const auto logits = five_logits();
  std::map<int64_t, int64_t> counts;
  for (uint64_t i = 0; i < kDraws; ++i) ++counts[next_token(logits, sampling, random.uniform(i))];
  const auto tokens = token_distribution(logits, sampling);
  CHECK(counts.size() == tokens.size());
  for (const auto& [id, probability] : tokens) {
    CAPTURE(id, probability);
    const double deviation = std::sqrt(kDraws * probability * (1 - probability));
    CHECK(std::abs(static_cast<double>(counts[id]) - kDraws * probability) < 4.5 * deviation);
  }
}

TEST_CASE("sampling that cannot be is refused by option") {
  CHECK(problems_of({}).empty());
  CHECK(problems_of({.temperature = 0.7, .top_k = 40, .top_p = 0.9}).empty());
  const auto problem_of = [](const Sampling& sampling) {
    const auto problems = problems_of(sampling);
    return problems.size() == 1 ? problems.front() : "not one problem";
  };
  CHECK_THAT(problem_of({.temperature = -1}), Contains("--temperature: -1"));
  CHECK_THAT(problem_of({.temperature = std::numeric_limits<double>::infinity()}), Contains("--temperature"));
  CHECK_THAT(problem_of({.temperature = 1, .top_k = -3}), Contains("--top-k: -3"));
  CHECK_THAT(problem_of({.temperature = 1, .top_p = 0}), Contains("--top-p: 0"));
  CHECK_THAT(problem_of({.temperature = 1, .top_p = 1.5}), Contains("--top-p: 1.5"));
  CHECK_THAT(problem_of({.top_k = 5}), Contains("set --temperature"));
}
