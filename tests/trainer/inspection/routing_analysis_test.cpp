// Analyses of trained checkpoints: the same on any number of ranks, records and their replay, refusals.
#include "trainer/inspection/routing_analysis.h"

#include <ATen/ATen.h>

#include <mutex>

#include "support/routed_tokens.h"
#include "support/trainer_fixtures.h"
#include "trainer/analysis/routing_record.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

/// A run of six steps with four experts, and two token files.
struct TrainedRun {
  explicit TrainedRun(const std::function<void(ModelConfig&)>& change = [](auto&) {})
      : config(saving_run(folder / "run")),
        prose(folder.add("prose.npy", token_bytes(80, 7))),
        code(folder.add("code.npy", token_bytes(60, 11))) {
    config.model.num_experts = 4;
    change(config.model);
    run_single(config);
  }
  /// Steps 2 and 6 over both files: 6 and 5 sequences of 12 tokens.
  AnalysisOptions options() const {
    AnalysisOptions out;
    out.models = {step_folder(config, 2), step_folder(config, 6)};
    out.domains = {{"prose", {prose}}, {"code", {code}}};
    out.min_count = 2;
    out.capacity = 1.0;
    out.layout.compute_dtype = ComputeDtype::float64;
    out.layout.micro_batch = 2;
    return out;
  }
  TempFolder folder;
  Config config;
  std::string prose, code;
};

Analysis analyze_alone(const AnalysisOptions& options) {
  const auto world = make_single_communicator();
  return analyze_routing(options, *world);
}

Analysis analyze_on(int ranks, const AnalysisOptions& options) {
  Analysis out;
  std::mutex mutex;
  run_ranks(ranks, [&](Communicator& world) {
    auto mine = analyze_routing(options, world);
    const std::lock_guard lock(mutex);
    if (out.arrays.empty()) out = std::move(mine);
  });
  return out;
}

void check_equal(const Analysis& ours, const Analysis& expected) {
  REQUIRE(ours.arrays.size() == expected.arrays.size());
  for (size_t i = 0; i < ours.arrays.size(); ++i) {
    INFO(expected.arrays[i].name);
    CHECK(ours.arrays[i].name == expected.arrays[i].name);
    const auto &a = ours.arrays[i].values, &b = expected.arrays[i].values;
    REQUIRE(a.sizes() == b.sizes());
    const bool counts = b.scalar_type() == at::kLong;
    CHECK((counts ? a.equal(b) : a.allclose(b, 1e-12, 1e-14)));
  }
  CHECK(ours.metadata == expected.metadata);
}

template <class F>
std::string refusal_of(AnalysisOptions options, const F& change) {
  change(options);
  try {
    analyze_alone(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("all statistics of two checkpoints are the same on 1, 2 and 4 ranks and with shared experts") {
  const TrainedRun run;
  auto options = run.options();
  const auto alone = analyze_alone(options);
  const auto& arrays = alone.arrays;
  CHECK(find_array(arrays, "load.counts").sizes() == at::IntArrayRef({2, 2, 3, 4}));
  CHECK(find_array(arrays, "load.tokens")[1].equal(at::tensor({72, 60}, at::kLong)));
  const auto saturation = find_array(arrays, "saturation.top_k");
  CHECK(saturation[1].equal(at::ones({3}, at::kDouble)));
  CHECK(saturation[0].min().item<double>() > 0.3);
  CHECK(saturation[0].max().item<double>() <= 1);
  const auto pairs = find_array(arrays, "coactivation.pairs");
  CHECK(pairs.equal(pairs.transpose(1, 2)));
  CHECK(pairs.sum(2).equal(find_array(arrays, "load.counts")[1].sum(0)));  // (K - 1) N_i of top-2
  CHECK(find_array(arrays, "similarity.experts").sizes() == at::IntArrayRef({3, 4, 4}));
  CHECK(find_array(arrays, "super.peaks").min().item<double>() > 0);
  CHECK_THAT(alone.table,
             Contains("saturation top-k by checkpoint") && Contains("super experts: largest output above"));
  CHECK(alone.metadata.at("steps") == "2 6");
  check_equal(analyze_on(2, options), alone);
  check_equal(analyze_on(4, options), alone);
  options.layout.expert = 2;
  check_equal(analyze_on(2, options), alone);
  check_equal(analyze_on(4, options), alone);
}

TEST_CASE("statistics that are named are computed alone, and drops without a capacity only where they are named") {
  const TrainedRun run;
  auto options = run.options();
  options.statistics = {"flow", "load"};
  const auto analysis = analyze_alone(options);
  std::set<std::string> rooms;
  for (const auto& array : analysis.arrays) rooms.insert(array.name.substr(0, array.name.find('.')));
  CHECK(rooms == std::set<std::string>{"domains", "flow", "load"});
  options.statistics = {};
  options.capacity.reset();
  for (const auto& array : analyze_alone(options).arrays) CHECK_FALSE(array.name.starts_with("drops."));
}

TEST_CASE("a record has what the layers chose, is the same from several ranks, and is kept in another dtype") {
  const TrainedRun run([](ModelConfig& model) { model.d_model = 32, model.expert_width = 16; });
  auto options = run.options();
  options.models.erase(options.models.begin());
  options.statistics = {"load"};
  options.record = run.folder / "float64.safetensors";
  const auto analysis = analyze_alone(options);
  const RoutingRecord record(options.record, {3, 4, 2, 12});
  CHECK(record.num_sequences() == 11);
  const auto& tokens = read_text(run.code);
  auto ids = at::empty({5, 12}, at::kLong);
  for (int64_t i = 0; i < 60; ++i) ids.view({-1})[i] = static_cast<int64_t>(tokens[static_cast<size_t>(2 * i)]);
  const auto counts = at::one_hot(record.experts_of(ids).to(at::kLong), 4).sum({1, 2});
  CHECK(counts.equal(find_array(analysis.arrays, "load.counts")[0][1]));
  auto on_ranks = options;
  on_ranks.layout.expert = 2;
  on_ranks.record = run.folder / "ranks.safetensors";
  analyze_on(4, on_ranks);
  const safetensors::File one(options.record), four(on_ranks.record);
  const auto same_bytes = [&](const char* name) {
    const auto a = one.bytes(name), b = four.bytes(name);
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  };
  CHECK(same_bytes("experts"));
  CHECK(same_bytes("ids"));
  // Of another checkpoint in bf16, whose own choice differs.
  auto replayed = options;
  replayed.models = {step_folder(run.config, 1)};
  replayed.layout.compute_dtype = ComputeDtype::bfloat16;
  replayed.record = run.folder / "own.safetensors";
  analyze_alone(replayed);
  CHECK_FALSE(RoutingRecord(replayed.record, {3, 4, 2, 12}).experts_of(ids).equal(record.experts_of(ids)));
  replayed.record = run.folder / "replayed.safetensors";
  replayed.replay = options.record;
  analyze_alone(replayed);
  const safetensors::File again(replayed.record);
  const auto a = one.bytes("experts"), b = again.bytes("experts");
  CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()));
}

TEST_CASE("what cannot be analyzed is refused by name") {
  const TrainedRun run;
  const auto options = run.options();
  CHECK(refusal_of(options, [](auto&) {}) == "none");
  CHECK_THAT(refusal_of(options,
                        [](auto& o) {
                          o.statistics = {"load", "loud"};
                        }),
             Contains("--statistics: loud is none of load, coactivation"));
  CHECK_THAT(refusal_of(options,
                        [](auto& o) {
                          o.statistics = {"drops"};
                          o.capacity.reset();
                        }),
             Contains("give --capacity"));
  CHECK_THAT(refusal_of(options, [](auto& o) { o.sequences = 6; }),
             Contains("--tokens code: its files have 5 sequences of 12 tokens, and 6 are asked for"));
  CHECK_THAT(refusal_of(options, [](auto& o) { o.domains[1].name = "prose"; }),
             Contains("two domains are called prose"));
  CHECK_THAT(refusal_of(options, [](auto& o) { o.table_layers = {3}; }), Contains("--layers") && Contains("0 to 2"));
  CHECK_THAT(refusal_of(options, [&](auto& o) { o.models[0] = run.folder / "prose.npy"; }), Contains("prose.npy"));
  const TrainedRun other([](ModelConfig& model) { model.num_experts = 5; });
  CHECK_THAT(refusal_of(options, [&](auto& o) { o.models[0] = step_folder(other.config, 6); }),
             Contains("5 experts, top-2") && Contains("cannot be compared"));
  const TrainedRun dense([](ModelConfig& model) { model.ffn = Ffn::dense; });
  CHECK_THAT(refusal_of(options, [&](auto& o) { o.models = {step_folder(dense.config, 6)}; }),
             Contains("a dense model has no routing"));
  const TrainedRun choice([](ModelConfig& model) {
    model.routing = RoutingMethod::expert_choice;
    model.load_balancing_weight = 0;
  });
  CHECK_THAT(refusal_of(options, [&](auto& o) { o.models = {step_folder(choice.config, 6)}; }),
             Contains("expert_choice"));
}
