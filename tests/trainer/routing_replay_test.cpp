// train.replay_routing: layers train on the experts of a routing record.
#include <ATen/ATen.h>

#include "support/trainer_fixtures.h"
#include "trainer/analysis/routing_record.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

constexpr int64_t kSequences = 6, kLength = 12;

/// Steps of one epoch each, of a token file of six sequences.
Config epoch_run(const TempFolder& folder, const std::string& name) {
  auto config = tiny_run(folder / name);
  config.model.num_experts = 4;
  config.data.synthetic = false;
  config.data.paths = {folder.add("tokens.npy", token_bytes(kSequences * kLength, 7))};
  config.train.global_batch_size = kSequences;
  config.log.routing_every_steps = 1;
  return config;
}

/// The sequences of the file, and two experts of four for each token and layer that no router would choose so.
struct Recorded {
  at::Tensor ids_BS, experts_LNK;
};
Recorded recorded() {
  auto ids = at::arange(kSequences * kLength, at::kLong).mul(7).remainder(50).view({kSequences, kLength});
  auto first_LN = at::arange(3 * kSequences * kLength, at::kInt).view({3, -1}).remainder(3);
  return {ids, at::stack({first_LN, first_LN + 1}, 2).to(at::kInt).contiguous()};
}

std::string write_record(const TempFolder& folder, int64_t sequences) {
  const auto path = folder / fmt::format("record_{}.safetensors", sequences);
  const auto [ids, experts] = recorded();
  RecordWriter writer(path, kLength);
  const auto part = experts.narrow(1, 0, sequences * kLength);
  writer.append(ids.narrow(0, 0, sequences), part, at::ones(part.sizes(), at::kFloat));
  writer.finish({});
  return path;
}

using Counts = std::vector<std::vector<std::vector<double>>>;  // ranks, layers, experts

}  // namespace

TEST_CASE("a run on a routing record keeps every assignment, in fp32 and float64, on ranks and with shared experts") {
  const TempFolder folder;
  const auto record = write_record(folder, kSequences);
  const auto expected_LE = at::one_hot(recorded().experts_LNK.to(at::kLong), 4).sum({1, 2}).to(at::kDouble);
  std::vector<double> losses;
  for (const int ranks : {1, 2, 4})
    for (const auto dtype : {ComputeDtype::float64, ComputeDtype::float32})
      for (const auto recompute : {Recompute::none, Recompute::full}) {
        auto config =
            epoch_run(folder, fmt::format("run_{}_{}_{}", ranks, static_cast<int>(dtype), static_cast<int>(recompute)));
        config.train.replay_routing = record;
        config.train.compute_dtype = dtype;
        config.train.recompute = recompute;
        config.parallel.expert = ranks == 4 ? 2 : 1;
        run_to_the_end(ranks, config);
        for (const auto& line : lines_of(config.run.folder)) {
          auto sum_LE = at::zeros({3, 4}, at::kDouble);
          for (const auto& rank : line.at("expert_counts").get<Counts>())
            for (int64_t l = 0; l < 3; ++l) sum_LE[l] += at::tensor(rank.at(static_cast<size_t>(l)), at::kDouble);
          CHECK(sum_LE.equal(expected_LE));
        }
        losses.push_back(lines_of(config.run.folder).back().at("loss").get<double>());
      }
  for (const double loss : losses) CHECK(loss == Approx(losses.front()).epsilon(1e-4));
  const auto own = epoch_run(folder, "own");
  run_to_the_end(1, own);
  CHECK(lines_of(own.run.folder).back().at("loss").get<double>() != Approx(losses.front()).epsilon(1e-4));
}

TEST_CASE("a run whose sequences a record does not have is refused") {
  const TempFolder folder;
  auto config = epoch_run(folder, "run");
  config.train.replay_routing = write_record(folder, 4);
  CHECK_THROWS_WITH(run_to_the_end(1, config), Contains("record_4.safetensors") && Contains("it has no sequence"));
  config.run.folder = folder / "other";
  config.train.replay_routing = folder / "none.safetensors";
  CHECK_THROWS_WITH(run_to_the_end(2, config), Contains("none.safetensors"));
}

TEST_CASE("what routing cannot be replayed with is refused by key") {
  const TempFolder folder;
  const auto problem_of = [&](const std::function<void(Config&)>& change) {
    auto config = epoch_run(folder, "run");
    config.train.replay_routing = "record.safetensors";
    change(config);
    const auto problems = validate(config);
    return problems.empty() ? std::string("none") : problems.front();
  };
  CHECK(problem_of([](auto&) {}) == "none");
  CHECK_THAT(problem_of([](auto& c) { c.model.ffn = Ffn::dense; }), Contains("train.replay_routing: a model without"));
  CHECK_THAT(problem_of([](auto& c) {
               c.model.routing = RoutingMethod::expert_choice;
               c.model.load_balancing_weight = 0;
             }),
             Contains("train.replay_routing: not with model.routing=expert_choice"));
  CHECK_THAT(problem_of([](auto& c) { c.model.balancing_bias = ExpertBias::quantile; }),
             Contains("train.replay_routing: not with model.balancing_bias=quantile"));
}
