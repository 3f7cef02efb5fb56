// Attention variants against the dense oracle and finite differences, and what a token reaches.
#include "support/attention_variants.h"

#include "support/slopes.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

double relative_gap(const at::Tensor& a, const at::Tensor& b) {
  return ((a.flatten() - b.flatten()).abs().max() / b.abs().max()).item<double>();
}

/// Changes in the loss of each target where the first token of the batch is another one.
at::Tensor changes(const ModelConfig& model, const Batch& batch) {
  OneRank rank(model, at::kDouble);
  auto other = batch;
  other.ids_BS = batch.ids_BS.clone();
  other.ids_BS[0][0].copy_((batch.ids_BS[0][0] + 1).remainder(model.vocab_size));
  return (rank.runner.score(batch) - rank.runner.score(other)).abs();
}

}  // namespace

TEST_CASE("every attention variant equals the dense oracle in float64, forward and backward") {
  for (const auto& variant : attention_variants()) {
    INFO(variant.name);
    const auto model = with(variant, strong_losses());
    check_against_oracle(model, as_in(variant, oracle_batch(model)));
  }
}

TEST_CASE("the gradients of every attention variant are the slopes of its losses") {
  for (const auto& variant : attention_variants()) {
    INFO(variant.name);
    const auto model = with(variant, strong_losses());
    check_slope(model, as_in(variant, oracle_batch(model)));
  }
}

TEST_CASE("recompute changes no bit of any attention variant, nor does an empty micro-batch") {
  const auto recompute = GENERATE(Recompute::selective, Recompute::full);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  for (const auto& variant : attention_variants()) {
    INFO(variant.name);
    const auto model = with(variant, strong_losses());
    OneRank kept(model, dtype), recomputed(model, dtype, recompute);
    const auto no_sequence = batch_of(oracle_batch(model).ids_BS.narrow(0, 0, 0));
    for (auto* rank : {&kept, &recomputed}) {
      rank->runner.train_micro_batch(as_in(variant, no_sequence), loss_scale(1, 1.0));
      rank->pass(as_in(variant, oracle_batch(model)));
      rank->runner.train_micro_batch(as_in(variant, no_sequence), loss_scale(1, 1.0));
    }
    CHECK(at::equal(kept.runner.totals().losses_3, recomputed.runner.totals().losses_3));
    const auto expected = whole_params(kept.runner, &ShardedUnit::grad);
    for (const auto& [name, grad] : whole_params(recomputed.runner, &ShardedUnit::grad)) {
      INFO(name);
      CHECK(at::equal(grad, expected.at(name)));
      CHECK(grad.count_nonzero().item<int64_t>() > 0);
    }
  }
}

TEST_CASE("bf16 and fp32 compute of every attention variant stay near float64") {
  for (const auto& variant : attention_variants()) {
    auto model = with(variant, tiny_model());
    model.init_std = 0.1;
    const auto batch = as_in(variant, oracle_batch(model));
    const auto loss = [&](at::ScalarType dtype) {
      OneRank rank(model, dtype);
      rank.pass(batch);
      for (const auto& [name, grad] : whole_params(rank.runner, &ShardedUnit::grad)) {
        INFO(name);
        CHECK(grad.isfinite().all().item<bool>());
      }
      return rank.runner.totals().losses_3[0].item<double>() / static_cast<double>(batch.num_targets);
    };
    INFO(variant.name);
    const double expected = loss(at::kDouble);
    CHECK(std::abs(loss(at::kFloat) - expected) <= 1e-5);
    CHECK(std::abs(loss(at::kBFloat16) - expected) <= std::ldexp(1.0, -8));
  }
}

TEST_CASE("patterns that make no difference change no bit") {
  const auto pass_of = [](const std::function<void(ModelConfig&)>& set) {
    auto model = strong_losses();
    set(model);
    OneRank rank(model, at::kBFloat16);
    rank.pass(oracle_batch(model));
    return whole_params(rank.runner, &ShardedUnit::grad);
  };
  const auto expected = pass_of([](ModelConfig&) {});
  const auto same = [&](const FlatParams& grads) {
    return std::ranges::all_of(grads,
                               [&](const auto& grad) { return at::equal(grad.second, expected.at(grad.first)); });
  };
  CHECK(same(pass_of([](ModelConfig& model) {
    model.attention_windows = {0, 11, 500};  // of 11 positions
    model.position_embeddings = {PositionEmbedding::rotary};
  })));
  CHECK_FALSE(same(pass_of([](ModelConfig& model) { model.attention_windows = {0, 0, 10}; })));
  CHECK_FALSE(same(pass_of([](ModelConfig& model) {
    model.position_embeddings = {PositionEmbedding::rotary, PositionEmbedding::none};
  })));
}

TEST_CASE("rotary positions that restart with every document give the same loss") {
  const auto model = strong_losses();  // every block rotates
  at::manual_seed(3);
  // Four documents of 5 tokens: in one sequence, where positions go on, and each as a sequence of its own.
  const auto ids = at::randint(model.vocab_size, {4, 5}, at::kLong);
  auto alone = batch_of(ids), together = alone;
  together.ids_BS = ids.view({1, 20});
  together.targets_BS = alone.targets_BS.view({1, 20});
  together.bounds = together.bounds_cpu = at::arange(0, 21, 5, at::kInt);
  OneRank rank(model, at::kDouble);
  CHECK(relative_gap(rank.runner.score(together), rank.runner.score(alone)) <= 1e-12);
  together.bounds = together.bounds_cpu = at::Tensor();
  CHECK(relative_gap(rank.runner.score(together), rank.runner.score(alone)) > 1e-3);
}

TEST_CASE("a token changes the loss of its document, of what windows reach, and of nothing else") {
  auto model = tiny_model();
  model.top_k = model.num_experts;  // a choice of experts depends on the token alone in any case
  const auto batch = oracle_batch(model);
  const auto reach = [&](const Batch& seen) { return (changes(model, seen) > 1e-9).sum(1); };
  CHECK(at::equal(reach(batch), at::tensor({10, 0, 0}, at::kLong)));  // the last target is ignored
  auto documents = batch;
  documents.bounds = documents.bounds_cpu = at::tensor({0, 4, 11, 22, 33}, at::kInt);
  CHECK(at::equal(reach(documents), at::tensor({4, 0, 0}, at::kLong)));
  model.attention_windows = {3};  // three blocks: 2 tokens farther each
  CHECK(at::equal(reach(batch), at::tensor({7, 0, 0}, at::kLong)));
  CHECK(at::equal(reach(documents), at::tensor({4, 0, 0}, at::kLong)));
}
