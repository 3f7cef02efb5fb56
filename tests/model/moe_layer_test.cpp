// Expert parallelism against a layer with all experts on one rank, for choices that routers seldom make.
#include "model/moe_layer.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;

constexpr int64_t kExperts = 6, kTopK = 3;

ModelConfig layer_model(int64_t top_k = kTopK) {
  auto model = test::tiny_model();
  model.num_experts = kExperts;
  model.top_k = top_k;
  return model;
}

/// Element i of a parameter is the same on any rank.
at::Tensor values_of(const Param& param) {
  const int64_t numel = c10::multiply_integers(param.shape);
  const auto i = at::arange(param.first, param.first + numel, at::kDouble);
  return ((i * 0.37 + static_cast<double>(param.name.size())).sin() * 0.3).view(param.shape);
}

/// A layer with weights and gradient buffers.
struct TestLayer {
  TestLayer(const ModelConfig& model, Communicator& experts, int64_t chunks)
      : layer(model, "moe", {model.expert_width},
              {std::make_shared<RowExchange>(experts, at::kCPU, Overlap::yes), experts}, {.chunks = chunks}) {
    for (auto& param : layer.state().params) {
      *param.slot = values_of(param).requires_grad_();
      param.slot->mutable_grad() = at::zeros(param.shape, at::kDouble);
      params.push_back(param);
    }
  }
  MoeLayer layer;
  std::vector<Param> params;
};

/// Output, gradient of the input and stats of one forward and backward with given choices.
struct Result {
  at::Tensor y_ND, dx_ND;
  StageStats stats;
};
Result run(TestLayer& test, const at::Tensor& x_ND, const at::Tensor& ids_NK) {
  const auto x = x_ND.clone().requires_grad_();
  Batch batch{at::zeros({1, x.size(0)}, at::kLong), {}, 0};
  Routing routing;
  routing.ids_NK = ids_NK;
  StageContext context{batch, Phase::train, routing};
  const auto out = test.layer.forward({x, {x.detach(), {}}}, x * 0.5, context);
  ((out.y * out.y.detach().cos()).sum() + out.aux * static_cast<double>(x.size(0))).backward();
  return {out.y.detach(), x.grad(), out.stats.value()};
}

/// Which experts the tokens of a rank choose.
struct Choice {
  const char* name;
  std::function<at::Tensor(int rank)> ids_NK;  ///< of that rank
};

at::Tensor same_for_all(int64_t tokens, at::IntArrayRef experts) {
  return at::tensor(experts, at::kInt).expand({tokens, std::ssize(experts)}).contiguous();
}

at::Tensor random_choice(int rank) {
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(rank) + 3);
  const auto order_NE = at::rand({9 + 2 * rank, kExperts}, generator, at::TensorOptions()).argsort(int64_t{1});
  return order_NE.slice(1, 0, kTopK).to(at::kInt).contiguous();
}

/// With one expert a token.
std::vector<Choice> single_choices() {
  return {
      {"all on one expert", [](int) { return same_for_all(5, {4}); }},
      {"each rank on an expert of its own", [](int rank) { return same_for_all(2 + rank, {kExperts - 1 - rank}); }},
      {"one rank alone has tokens", [](int rank) { return same_for_all(rank == 1 ? 3 : 0, {0}); }},
  };
}

std::vector<Choice> choices() {
  return {
      {"all on the experts of the first rank",
       [](int) {
         return same_for_all(5, {0, 1, 2});
       }},
      {"one expert takes part of each token, and the last one none",
       [](int) {
         return same_for_all(4, {3, 0, 4});
       }},
      {"ranks choose different experts",
       [](int rank) {
         return same_for_all(3 + rank, rank % 2 ? at::IntArrayRef{5, 3, 4} : at::IntArrayRef{1, 5, 0});
       }},
      {"the first rank has no tokens",
       [](int rank) {
         return same_for_all(rank == 0 ? 0 : 6, {5, 0, 3});
       }},
      {"only the last rank has tokens",
       [](int rank) {
         return same_for_all(rank == 2 ? 7 : 0, {2, 1, 4});
       }},
      {"no rank has tokens",
       [](int) {
         return same_for_all(0, {0, 1, 2});
       }},
      {"random", random_choice},
  };
}

at::Tensor tokens_of(int rank, int64_t tokens, int64_t width) {
  return (at::arange(tokens * width, at::kDouble) * 0.11 + rank).sin().view({tokens, width});
}

void ensure_close(const at::Tensor& ours, const at::Tensor& reference, const std::string& what) {
  ENSURE(ours.sizes() == reference.sizes(), "{}: other sizes", what);
  if (ours.numel() == 0) return;
  const double scale = reference.abs().max().item<double>(), gap = (ours - reference).abs().max().item<double>();
  ENSURE(gap <= 1e-12 * scale, "{} is off by {} of {}", what, gap, scale);
}

/// The gradient of a parameter over all tokens, of the elements that `param` holds.
at::Tensor part_of(const std::vector<Param>& whole, const Param& param) {
  for (const auto& candidate : whole)
    if (candidate.name == param.name)
      return candidate.slot->grad().flatten().narrow(0, param.first, param.slot->numel()).view(param.shape);
  throw Error("no parameter " + param.name);
}

/// Throws if results on several ranks differ from those on one.
void check_ranks(const ModelConfig& model, int ranks, int64_t chunks, const Choice& choice) {
  // The reference computes the micro-batches of all ranks in turn; its weight gradients accumulate.
  const auto alone = make_single_communicator();
  TestLayer reference(model, *alone, 1);
  std::vector<Result> expected;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto ids_NK = choice.ids_NK(rank);
    expected.push_back(run(reference, tokens_of(rank, ids_NK.size(0), model.d_model), ids_NK));
  }
  run_ranks(ranks, [&](Communicator& group) {
    at::AutogradState::get_tls_state().set_multithreading_enabled(false);
    TestLayer test(model, group, chunks);
    const int rank = group.rank();
    const auto ids_NK = choice.ids_NK(rank);
    const auto ours = run(test, tokens_of(rank, ids_NK.size(0), model.d_model), ids_NK);
    const auto& theirs = expected[static_cast<size_t>(rank)];
    ensure_close(ours.y_ND, theirs.y_ND, "y");
    ensure_close(ours.dx_ND, theirs.dx_ND, "gradient of x");
    ensure_close(ours.stats.losses_2, theirs.stats.losses_2, "auxiliary losses");
    ensure_close(ours.stats.dropped_1, theirs.stats.dropped_1, "dropped assignments");
    ensure_close(ours.stats.counts_E, theirs.stats.counts_E, "assignments to each expert");
    for (auto& param : test.params) {
      auto grad = param.slot->grad();
      if (param.axis == Axis::shard) group.all_reduce(grad);
      ensure_close(grad, part_of(reference.params, param), "gradient of " + param.name);
    }
  });
}

}  // namespace

TEST_CASE("expert parallelism gives the results of one rank for every choice of experts") {
  const int ranks = GENERATE(2, 3, 6);
  const int64_t chunks = GENERATE(1, 2, 3);
  for (const auto& choice : choices()) {
    INFO(fmt::format("{} ranks, {} chunks: {}", ranks, chunks, choice.name));
    CHECK_NOTHROW(check_ranks(layer_model(), ranks, chunks, choice));
  }
  for (const auto& choice : single_choices()) {
    INFO(fmt::format("{} ranks, {} chunks, one expert a token: {}", ranks, chunks, choice.name));
    CHECK_NOTHROW(check_ranks(layer_model(1), ranks, chunks, choice));
  }
}

TEST_CASE("the counts of all chunks are exchanged in one call, the ids of each chunk in one") {
  const auto choice = random_choice(1);
  run_ranks(2, [&](Communicator& group) {
    const TokenDispatcher dispatcher(std::make_shared<RowExchange>(group, at::kCPU, Overlap::yes), kExperts);
    const auto chunks = choice.split(4);
    const auto plans = dispatcher.plan(chunks);
    ENSURE(plans.size() == chunks.size() && chunks.size() == 3, "{} plans", plans.size());
    const int64_t calls = group.diagnostics().traffic().all_to_all.calls;
    ENSURE(calls == 1 + 3, "{} calls", calls);
  });
}

TEST_CASE("all chunks are dispatched before the first is computed, in forward and backward, at the experts' width") {
  auto model = layer_model();
  model.latent_dim = GENERATE(0, 10);
  run_ranks(2, [&](Communicator& group) {
    at::AutogradState::get_tls_state().set_multithreading_enabled(false);
    TestLayer test(model, group, 2);
    run(test, tokens_of(group.rank(), 8, model.d_model), same_for_all(8, {0, 3, 4}));  // a copy of each to both ranks
    std::vector<std::string> sent;
    for (const auto& call : group.diagnostics().trace()->calls()) sent.push_back(std::to_string(call.elements));
    const std::string rows = std::to_string(8 * model.expert_dim()), choices = std::to_string(8 * kTopK);
    const std::vector<std::string> expected{"8",     choices, choices,           // counts of both chunks, ids of each
                                            rows,    choices, rows,    choices,  // dispatch of tokens and scores
                                            rows,    rows,                       // combine
                                            rows,    rows,                       // backward: of combine
                                            choices, rows,    choices, rows};    // then of dispatch
    ENSURE(sent == expected, "sent {}", fmt::join(sent, " "));
  });
}

TEST_CASE("a token is sent to a rank once, however many experts it chose there") {
  run_ranks(2, [&](Communicator& group) {
    const TokenDispatcher dispatcher(std::make_shared<RowExchange>(group, at::kCPU, Overlap::yes), kExperts);
    // Experts 0 to 2 are rank 0's. Of the first token rank 0 gets one copy, of the second one each.
    const auto ids_NK = at::tensor({0, 2, 1, 5, 0, 3}, at::kInt).view({2, 3});
    const auto plan = dispatcher.plan(ids_NK).front();
    ENSURE((plan.counts.send == std::vector<int64_t>{2, 1}), "rank {} sends other copies", group.rank());
    ENSURE(plan.rows.assignment_R.size(0) == (group.rank() == 0 ? 8 : 4), "rank {} computes {} rows", group.rank(),
           plan.rows.assignment_R.size(0));
    ENSURE(plan.exchanged.sent == (group.rank() == 0 ? 1 : 2), "copies to itself are not sent");
  });
}

TEST_CASE("assignments beyond capacity are dropped in the order of tokens, equally on one rank and on two") {
  auto model = layer_model();
  model.capacity_factor = 0.5;  // 8 tokens x 3 / 6 experts x 0.5 = 2 for each expert
  const auto ids_NK = same_for_all(8, {1, 4, 5});
  const auto x_ND = tokens_of(0, 8, model.d_model);
  const auto alone = make_single_communicator();
  TestLayer reference(model, *alone, 1);
  const auto expected = run(reference, x_ND, ids_NK);
  CHECK(expected.stats.dropped_1.item<double>() == 3 * 6);
  CHECK(at::equal(expected.y_ND.slice(0, 2), x_ND.slice(0, 2) * 0.5));  // the residual alone
  CHECK_FALSE(at::equal(expected.y_ND.slice(0, 0, 2), x_ND.slice(0, 0, 2) * 0.5));
  CHECK_NOTHROW(run_ranks(2, [&](Communicator& group) {
    at::AutogradState::get_tls_state().set_multithreading_enabled(false);
    TestLayer test(model, group, 1);
    const auto ours = run(test, x_ND, ids_NK);
    ensure_close(ours.y_ND, expected.y_ND, "y");
    ensure_close(ours.dx_ND, expected.dx_ND, "gradient of x");
    ENSURE(ours.stats.dropped_1.item<double>() == 18, "others were dropped");
  }));
}

TEST_CASE("an expert with a capacity by score keeps the highest, equally on one rank and on two, in chunks too") {
  auto model = layer_model();
  model.capacity_factor = 0.5;
  model.capacity_order = CapacityOrder::score;
  const auto ids_NK = same_for_all(8, {1, 4, 5});
  const auto x_ND = tokens_of(0, 8, model.d_model);
  const auto alone = make_single_communicator();
  TestLayer reference(model, *alone, 1);
  const auto expected = run(reference, x_ND, ids_NK);
  CHECK(expected.stats.dropped_1.item<double>() == 3 * 6);
  const auto scores_N3 = x_ND.matmul(reference.params.front().slot->detach().t())
                             .softmax(-1)
                             .index_select(1, at::tensor({1, 4, 5}, at::kLong));
  const auto best_23 = std::get<1>(scores_N3.topk(2, 0));
  REQUIRE(best_23.max().item<int64_t>() > 1);  // not the first ones
  const auto has_expert_N = (expected.y_ND != x_ND * 0.5).any(1);
  for (int64_t n = 0; n < 8; ++n) {
    INFO("token " << n);
    CHECK(has_expert_N[n].item<bool>() == (best_23 == n).any().item<bool>());
  }
  CHECK_NOTHROW(run_ranks(2, [&](Communicator& group) {
    at::AutogradState::get_tls_state().set_multithreading_enabled(false);
    TestLayer test(model, group, 3);
    const auto ours = run(test, x_ND, ids_NK);
    ensure_close(ours.y_ND, expected.y_ND, "y");
    ensure_close(ours.dx_ND, expected.dx_ND, "gradient of x");
    ENSURE(ours.stats.dropped_1.item<double>() == 18, "others were dropped");
  }));
}
