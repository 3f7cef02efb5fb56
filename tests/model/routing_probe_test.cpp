// What a probe notes of a layer with experts, against formulas over every expert.
#include <ATen/ATen.h>

#include <mutex>

#include "model/moe_layer.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;

constexpr int64_t kExperts = 6, kTopK = 2, kTokens = 7;

ModelConfig probed_model() {
  auto model = test::tiny_model();
  model.num_experts = kExperts;
  model.top_k = kTopK;
  return model;
}

at::Tensor values_of(const Param& param) {
  const auto i = at::arange(param.first, param.first + c10::multiply_integers(param.shape), at::kDouble);
  return ((i * 0.37 + static_cast<double>(param.name.size())).sin() * 0.3).view(param.shape);
}

/// Token n of rank r, and its experts; expert 5 has no token.
at::Tensor rows_of(int rank, int64_t width) {
  return (at::arange(kTokens * width, at::kDouble) * 0.11 + rank).sin().view({kTokens, width});
}
at::Tensor experts_of(int rank) {
  const auto first_N = (at::arange(kTokens, at::kInt) + rank).remainder(5);
  return at::stack({first_N, (first_N + 1).remainder(5)}, 1).contiguous();
}

RoutingProbe probe_of(const ModelConfig& model, Communicator& world, int rank, int64_t chunks, bool peaks) {
  MoeLayer layer(model, "moe", {model.expert_width},
                 {std::make_shared<RowExchange>(world, at::kCPU, Overlap::yes), world}, {.chunks = chunks});
  for (auto& param : layer.state().params) *param.slot = values_of(param);
  const auto x_ND = rows_of(rank, model.d_model);
  Batch batch{at::zeros({1, kTokens}, at::kLong), {}, 0};
  Routing routing;
  routing.ids_NK = experts_of(rank);
  RoutingProbe probe{.output_peaks = peaks, .experts_NK = {}, .gates_NK = {}, .peaks_E = {}};
  StageContext context{batch, Phase::score, routing};
  context.probe = &probe;
  at::NoGradGuard no_grad;
  layer.forward({x_ND, {x_ND, {}}}, x_ND, context);
  return probe;
}

/// By name: the weights of all experts, and of the router.
std::map<std::string, at::Tensor> whole_weights(const ModelConfig& model) {
  const auto alone = make_single_communicator();
  MoeLayer layer(model, "moe", {model.expert_width},
                 {std::make_shared<RowExchange>(*alone, at::kCPU, Overlap::yes), *alone}, {});
  std::map<std::string, at::Tensor> out;
  for (auto& param : layer.state().params) out[param.name] = values_of(param);
  return out;
}

/// The largest output of each expert over the tokens of ranks [0, ranks).
at::Tensor largest_outputs(const ModelConfig& model, int ranks) {
  const auto weights = whole_weights(model);
  auto largest_E = at::zeros({kExperts}, at::kDouble);
  for (int rank = 0; rank < ranks; ++rank) {
    const auto x_ND = rows_of(rank, model.d_model);
    const auto parts = at::einsum("nd,efd->nef", {x_ND, weights.at("moe.experts.gate_up.weight")}).chunk(2, -1);
    const auto y_NED =
        at::einsum("nef,edf->ned", {at::silu(parts[0]) * parts[1], weights.at("moe.experts.down.weight")});
    const auto chosen_NE = at::zeros({kTokens, kExperts}, at::kDouble).scatter(1, experts_of(rank).to(at::kLong), 1.0);
    largest_E = at::maximum(largest_E, (y_NED.abs().amax({2}) * chosen_NE).amax({0}));
  }
  return largest_E;
}

}  // namespace

TEST_CASE("a probe notes experts, gates and the largest output of each expert without its gate") {
  const auto model = probed_model();
  const auto alone = make_single_communicator();
  const auto probe = probe_of(model, *alone, 0, 1, /*peaks=*/true);
  REQUIRE(probe.experts_NK.size() == 1);
  CHECK(probe.experts_NK[0].equal(experts_of(0)));
  const auto probs_NE = rows_of(0, model.d_model).matmul(whole_weights(model).at("moe.router.weight").t()).softmax(-1);
  CHECK(probe.gates_NK.at(0).allclose(probs_NE.gather(1, experts_of(0).to(at::kLong)), 1e-12, 1e-14));
  const auto expected_E = largest_outputs(model, 1);
  CHECK(probe.peaks_E.at(0).allclose(expected_E, 1e-12, 1e-14));
  CHECK(expected_E[5].item<double>() == 0);
  CHECK(expected_E[0].item<double>() > 0);
  CHECK(probe_of(model, *alone, 0, 1, /*peaks=*/false).peaks_E.empty());
}

TEST_CASE("the largest outputs over the ranks that share experts are those of all their tokens") {
  const auto model = probed_model();
  for (const int ranks : {2, 3})
    for (const int64_t chunks : {1, 2}) {
      auto largest_E = at::zeros({kExperts}, at::kDouble);
      std::mutex mutex;
      run_ranks(ranks, [&](Communicator& world) {
        const auto probe = probe_of(model, world, world.rank(), chunks, /*peaks=*/true);
        ENSURE(probe.experts_NK.at(0).equal(experts_of(world.rank())), "rank {} noted other experts", world.rank());
        const std::lock_guard lock(mutex);
        largest_E = at::maximum(largest_E, probe.peaks_E.at(0));
      });
      CAPTURE(ranks, chunks);
      CHECK(largest_E.allclose(largest_outputs(model, ranks), 1e-12, 1e-14));
    }
}
