// Statistics of routing against counts of ones, tensors that say which experts each token chose.
#include "core/random.h"
#include "support/catch.h"
#include "support/routed_tokens.h"
#include "trainer/analysis/coactivation.h"
#include "trainer/analysis/contexts.h"
#include "trainer/analysis/drops.h"
#include "trainer/analysis/expert_load.h"
#include "trainer/analysis/layer_flow.h"
#include "trainer/analysis/saturation.h"
#include "trainer/analysis/vocabulary.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

std::vector<NamedArray> arrays_of(Statistic& statistic, const std::vector<RoutedTokens>& batches) {
  for (const auto& tokens : batches) statistic.add(tokens);
  return statistic.arrays();
}

/// Sum over batches of what `count` gives of each.
template <class F>
at::Tensor summed(const std::vector<RoutedTokens>& batches, const F& count) {
  at::Tensor sum;
  for (const auto& tokens : batches) sum = sum.defined() ? sum + count(tokens) : count(tokens);
  return sum;
}

/// [V, E] from ids [B, S] and ones [N, E].
at::Tensor by_id(const at::Tensor& ids_BS, const at::Tensor& ones_NE, int64_t vocab_size) {
  const auto ids_N = ids_BS.flatten(), known_N = ids_N.ge(0);
  return at::zeros({vocab_size, ones_NE.size(1)}, at::kLong)
      .index_add(0, ids_N.clamp_min(0), ones_NE * known_N.unsqueeze(1));
}

double gap(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("load and domain shares equal sums of ones") {
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  ExpertLoad load(shape);
  const auto arrays = arrays_of(load, batches);
  for (const auto& [name, slots] : {std::pair("load.counts", shape.top_k), std::pair("load.top_1", int64_t{1})}) {
    auto expected = at::zeros({2, shape.layers, shape.experts}, at::kLong);
    for (const auto& tokens : batches) expected[tokens.domain] += one_hot(tokens, shape, slots).sum(1);
    CHECK(find_array(arrays, name).equal(expected));
  }
  CHECK(find_array(arrays, "load.tokens").equal(at::tensor({5 * 8, 5 * 8}, at::kLong)));
  // Of all experts together a token chooses K.
  CHECK(gap(find_array(arrays, "domains.share").sum(2), at::full({2, 3}, 3.0, at::kDouble)) < 1e-12);
  CHECK(gap(find_array(arrays, "domains.share_top_1").sum(2), at::ones({2, 3}, at::kDouble)) < 1e-12);
}

TEST_CASE("co-activation equals products of ones, is symmetric, and its rows sum to (K - 1) N_i") {
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  Coactivation coactivation(shape);
  const auto arrays = arrays_of(coactivation, batches);
  const auto diagonal = at::eye(shape.experts, at::kLong);
  const auto pairs = summed(batches,
                            [&](const auto& tokens) {
                              const auto ones = one_hot(tokens, shape, shape.top_k);
                              return ones.transpose(1, 2).matmul(ones);
                            }) *
                     (1 - diagonal);
  CHECK(find_array(arrays, "coactivation.pairs").equal(pairs));
  CHECK(pairs.equal(pairs.transpose(1, 2)));
  const auto counts_LE =
      summed(batches, [&](const auto& tokens) { return one_hot(tokens, shape, shape.top_k).sum(1); });
  CHECK(pairs.sum(2).equal(counts_LE * (shape.top_k - 1)));
  CHECK(gap(find_array(arrays, "coactivation.conditional"), pairs.to(at::kDouble) / counts_LE.unsqueeze(2)) < 1e-15);
  const auto adjacent = summed(batches, [&](const auto& tokens) {
    const auto slots = at::one_hot(tokens.experts_LNK.to(at::kLong), shape.experts);  // [L, N, K, E]
    auto sum = at::zeros({shape.layers, shape.experts, shape.experts}, at::kLong);
    for (int64_t k = 0; k + 1 < shape.top_k; ++k) {
      const auto product = slots.select(2, k).transpose(1, 2).matmul(slots.select(2, k + 1));
      sum += product + product.transpose(1, 2);
    }
    return sum;
  });
  CHECK(find_array(arrays, "coactivation.adjacent").equal(adjacent));
  CHECK_FALSE(adjacent.equal(pairs));
}

TEST_CASE("flow between layers equals products of ones, of all pairs and of equal slots") {
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  LayerFlow flow(shape);
  const auto arrays = arrays_of(flow, batches);
  REQUIRE(find_array(arrays, "flow.layers").equal(at::tensor({0, 1, 1, 2}, at::kLong).view({2, 2})));
  for (int64_t p = 0; p < 2; ++p) {
    const auto pairs = summed(batches, [&](const auto& tokens) {
      const auto ones = one_hot(tokens, shape, shape.top_k);
      return ones[p].t().matmul(ones[p + 1]);
    });
    CHECK(find_array(arrays, "flow.pairs")[p].equal(pairs));
    const auto same_slot = summed(batches, [&](const auto& tokens) {
      const auto slots = at::one_hot(tokens.experts_LNK.to(at::kLong), shape.experts).flatten(1, 2);  // [L, NK, E]
      return slots[p].t().matmul(slots[p + 1]);
    });
    CHECK(find_array(arrays, "flow.same_slot")[p].equal(same_slot));
    CHECK(pairs.sum().item<int64_t>() == shape.top_k * same_slot.sum().item<int64_t>());
  }
}

TEST_CASE("the layers that flow is counted between are neighbours, and the first, the middle and the last") {
  auto shape = small_analysis();
  shape.layers = 5;
  LayerFlow five(shape);
  CHECK(find_array(five.arrays(), "flow.layers")
            .equal(at::tensor({0, 1, 1, 2, 2, 3, 3, 4, 0, 2, 2, 4}, at::kLong).view({6, 2})));
  shape.layers = 1;
  LayerFlow one(shape);
  CHECK(find_array(one.arrays(), "flow.pairs").size(0) == 0);
}

TEST_CASE("vocabulary specialization by input, next and predicted id equals sums of ones by id") {
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  Vocabulary vocabulary(shape);
  const auto arrays = arrays_of(vocabulary, batches);
  const std::vector<std::pair<std::string, at::Tensor RoutedTokens::*>> kinds{
      {"input", &RoutedTokens::ids_BS}, {"next", &RoutedTokens::next_BS}, {"predicted", &RoutedTokens::predicted_BS}};
  for (const auto& kind : kinds) {
    const auto which = kind.second;
    const auto counts = [&](int64_t layer, int64_t slots) {
      return summed(batches, [&](const auto& tokens) {
        return by_id(tokens.*which, one_hot(tokens, shape, slots)[layer], shape.vocab_size);
      });
    };
    const auto tokens_V = counts(0, 1).sum(1), ids_U = tokens_V.nonzero().flatten();
    const auto prefix = "vocabulary." + kind.first + ".";
    REQUIRE(find_array(arrays, prefix + "ids").equal(ids_U));
    for (int64_t t = 0; t < 2; ++t) {
      const auto all = counts(shape.table_layers[static_cast<size_t>(t)], shape.top_k).index_select(0, ids_U);
      const auto top_1 = counts(shape.table_layers[static_cast<size_t>(t)], 1).index_select(0, ids_U);
      CHECK(find_array(arrays, prefix + "counts")[t].equal(all));
      CHECK(find_array(arrays, prefix + "top_1")[t].equal(top_1));
      const auto tokens_U = top_1.sum(1).to(at::kDouble);
      CHECK(gap(find_array(arrays, prefix + "specialization")[t], (all.amax({1}) / tokens_U).mean()) < 1e-12);
      CHECK(gap(find_array(arrays, prefix + "specialization_top_1")[t], (top_1.amax({1}) / tokens_U).mean()) < 1e-12);
    }
  }
  // The last token of a sequence has no next id.
  CHECK(find_array(arrays, "vocabulary.next.top_1")[0].sum().item<int64_t>() == 10 * (shape.sequence_length - 1));
}

TEST_CASE("deviation by id and by position is that of shares; two fixed experts of 32 give 0.12103") {
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  Contexts contexts(shape);
  const auto arrays = arrays_of(contexts, batches);
  const auto counts_VE = summed(batches, [&](const auto& tokens) {
    return by_id(tokens.ids_BS, one_hot(tokens, shape, shape.top_k)[2], shape.vocab_size);
  });
  const auto ids_U = find_array(arrays, "contexts.ids");
  REQUIRE(ids_U.equal(counts_VE.sum(1).ge(shape.min_count * shape.top_k).nonzero().flatten()));
  REQUIRE(ids_U.numel() > 2);
  const auto counts_UE = counts_VE.index_select(0, ids_U).to(at::kDouble);
  const auto shares_UE = counts_UE / counts_UE.sum(1, true);
  const auto deviation_U = (shares_UE - shares_UE.mean(1, true)).square().mean(1).sqrt();
  CHECK(gap(find_array(arrays, "contexts.deviation")[1], deviation_U) < 1e-14);
  CHECK(find_array(arrays, "contexts.tokens").equal((counts_UE.sum(1) / 3).to(at::kLong)));
  const auto positions = summed(batches, [&](const auto& tokens) {
    return one_hot(tokens, shape, shape.top_k).unflatten(1, {-1, shape.sequence_length}).sum(1).transpose(0, 1);
  });
  CHECK(find_array(arrays, "contexts.positions").equal(positions));
  auto two_of_32 = at::zeros({32}, at::kLong);
  two_of_32.narrow(0, 3, 2).fill_(70);
  CHECK(share_deviation(two_of_32).item<double>() == Approx(0.12103).epsilon(1e-4));
  CHECK(share_variation(two_of_32, two_of_32 * 3).item<double>() == 0);
  CHECK(share_variation(two_of_32, two_of_32.roll(2)).item<double>() == Approx(1));
}

TEST_CASE("experts that follow from the id before differ between its halves and not between random ones") {
  auto shape = small_analysis();
  shape.table_layers = {0};
  shape.layers = 1;
  auto tokens = random_tokens(shape, 5, 400);
  const RandomStream halves(0, "halves of ids");  // as Contexts has them
  const auto* const ids = tokens.ids_BS.const_data_ptr<int64_t>();
  for (int64_t n = 1; n < tokens.num_tokens(); ++n) {
    const int64_t half = halves.bits(static_cast<uint64_t>(ids[n - 1])) % 2 == 0 ? 0 : 3;
    tokens.experts_LNK[0][n].copy_(at::arange(half, half + 3, at::kInt));
  }
  Contexts contexts(shape);
  const auto arrays = arrays_of(contexts, {tokens});
  const double by_previous = find_array(arrays, "contexts.by_previous").mean().item<double>();
  const double at_random = find_array(arrays, "contexts.at_random").mean().item<double>();
  CHECK(by_previous == Approx(1));
  CHECK(at_random < 0.12);
}

TEST_CASE("the deviation that chance gives is the root mean square of random choices") {
  auto shape = small_analysis();
  shape.table_layers = {0};
  shape.layers = 1;
  shape.min_count = 1;
  auto tokens = random_tokens(shape, 9, 3000);
  auto generator = at::detail::createCPUGenerator(3);
  const auto keys_NE = at::rand({tokens.num_tokens(), shape.experts}, generator, at::TensorOptions());
  tokens.experts_LNK = keys_NE.argsort(int64_t{1}).narrow(1, 0, shape.top_k).to(at::kInt).unsqueeze(0).contiguous();
  Contexts contexts(shape);
  const auto arrays = arrays_of(contexts, {tokens});
  const auto ratio_U = find_array(arrays, "contexts.deviation")[0] / find_array(arrays, "contexts.chance");
  CHECK(ratio_U.square().mean().sqrt().item<double>() == Approx(1).margin(0.35));  // 11 ids, 5 free shares of each
}

TEST_CASE("saturation of a checkpoint with itself is 1, with another it is the share of equal choices") {
  const auto shape = small_analysis();
  const auto last = random_batches(shape, 1);
  auto earlier = random_batches(shape, 100);
  Saturation saturation(shape, 2);
  saturation.begin(1);
  for (const auto& tokens : last) saturation.add(tokens);
  saturation.begin(0);
  const auto arrays = arrays_of(saturation, earlier);
  const auto top_k = find_array(arrays, "saturation.top_k"), top_1 = find_array(arrays, "saturation.top_1");
  CHECK(top_k[1].equal(at::ones({3}, at::kDouble)));
  CHECK(top_1[1].equal(at::ones({3}, at::kDouble)));
  const auto shared = [&](int64_t slots) {
    auto sum_L = at::zeros({3}, at::kDouble);
    for (size_t i = 0; i < last.size(); ++i)
      sum_L += (one_hot(last[i], shape, slots) * one_hot(earlier[i], shape, slots)).sum({1, 2});
    return sum_L / (80.0 * static_cast<double>(slots));
  };
  CHECK(gap(top_k[0], shared(shape.top_k)) < 1e-15);
  CHECK(gap(top_1[0], shared(1)) < 1e-15);
  earlier.front().first = 4;
  CHECK_THROWS_WITH(saturation.add(earlier.front()), Catch::Contains("no such tokens from token 4 on"));
}

TEST_CASE("early routing is the variation of an id's shares from the last checkpoint's") {
  const auto shape = small_analysis();
  const auto last = random_batches(shape, 1);
  auto earlier = random_batches(shape, 1);
  for (auto& tokens : earlier) tokens.experts_LNK = tokens.experts_LNK.add(1).remainder(6).to(at::kInt);
  EarlyRouting early(shape, 2);
  early.begin(1);
  for (const auto& tokens : last) early.add(tokens);
  early.begin(0);
  const auto arrays = arrays_of(early, earlier);
  const auto ids_U = find_array(arrays, "early.ids");
  const auto shares = [&](const std::vector<RoutedTokens>& batches) {
    const auto counts_UE =
        summed(batches,
               [&](const auto& tokens) { return by_id(tokens.ids_BS, one_hot(tokens, shape, 3)[2], shape.vocab_size); })
            .index_select(0, ids_U)
            .to(at::kDouble);
    return counts_UE / counts_UE.sum(1, true);
  };
  const auto expected_U = (shares(earlier) - shares(last)).abs().sum(1) / 2;
  CHECK(gap(find_array(arrays, "early.id_variation")[0][1], expected_U) < 1e-14);
  CHECK(gap(find_array(arrays, "early.variation")[0][1], expected_U.mean()) < 1e-14);
  CHECK(find_array(arrays, "early.variation")[1].abs().max().item<double>() == 0);
}

TEST_CASE("drops by position are the assignments of a sequence beyond the capacity") {
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  constexpr int64_t kCapacity = 3;
  Drops drops(shape, kCapacity);
  const auto arrays = arrays_of(drops, batches);
  auto assignments = at::zeros({2, 3, 8}, at::kLong), partial = assignments.clone(), lost = assignments.clone();
  for (const auto& tokens : batches) {
    // The rank of an assignment among those of its expert and sequence, in order of position and slot.
    const auto slots = at::one_hot(tokens.experts_LNK.to(at::kLong), 6).unflatten(1, {-1, 8}).flatten(2, 3);
    const auto rank = (slots.cumsum(2) * slots).sum(3);                                 // [L, B, S K], from 1 on
    const auto dropped = rank.gt(kCapacity).to(at::kLong).unflatten(2, {8, 3}).sum(3);  // [L, B, S]
    assignments[tokens.domain] += dropped.sum(1);
    partial[tokens.domain] += dropped.gt(0).sum(1);
    lost[tokens.domain] += dropped.eq(3).sum(1);
  }
  CHECK(find_array(arrays, "drops.assignments").equal(assignments));
  CHECK(find_array(arrays, "drops.partial").equal(partial));
  CHECK(find_array(arrays, "drops.lost").equal(lost));
  CHECK(find_array(arrays, "drops.sequences").equal(at::tensor({5, 5}, at::kLong)));
  // In any order as many are dropped, of each sequence and layer.
  const auto shuffled = find_array(arrays, "drops.shuffled");
  CHECK(shuffled.sum(2).equal(assignments.sum(2)));
  CHECK_FALSE(shuffled.equal(assignments));
  CHECK_THROWS_WITH(Drops(shape, 0), Catch::Contains("capacity of 0"));
}

TEST_CASE("tokens of other shapes, experts and ids are refused") {
  const auto shape = small_analysis();
  const auto tokens = random_tokens(shape, 1, 2);
  CHECK_NOTHROW(ensure_fits(tokens, shape));
  CHECK_NOTHROW(ensure_fits(random_tokens(shape, 1, 0), shape));
  auto other = tokens;
  other.experts_LNK = tokens.experts_LNK + 1;
  CHECK_THROWS_WITH(ensure_fits(other, shape), Catch::Contains("of 6"));
  other = tokens;
  other.ids_BS = tokens.ids_BS + shape.vocab_size;
  CHECK_THROWS_WITH(ensure_fits(other, shape), Catch::Contains("a vocabulary of 11"));
  other = tokens;
  other.domain = 2;
  CHECK_THROWS_WITH(ensure_fits(other, shape), Catch::Contains("domain 2 of 2"));
  other = tokens;
  other.experts_LNK = tokens.experts_LNK.narrow(0, 0, 2).contiguous();
  CHECK_THROWS_WITH(ensure_fits(other, shape), Catch::Contains("int32 [3, 16, 3]"));
}
