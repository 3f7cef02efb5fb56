// Traffic of a step's collectives in metrics.jsonl, compared with closed forms.
#include <numeric>

#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr int64_t kRounds = 2;  // three micro-batches on two ranks
constexpr int64_t kDouble = 8;

/// Flat sizes of the units of a run, in the order of its stages.
struct Units {
  std::vector<int64_t> dense, experts;
};

int64_t sum(const std::vector<int64_t>& numels) { return std::accumulate(numels.begin(), numels.end(), int64_t{0}); }

/// The lines of a run on two ranks.
std::vector<nlohmann::json> run(const Config& config, Units& units) {
  run_ranks(2, [&](Communicator& world) {
    Trainer trainer(resolve_run(config, world.size()), world);
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
    if (world.rank() != 0) return;
    for (const auto& state : trainer.optimizer().state()) {
      const bool of_experts = state.slices.front().name.find(".experts.") != std::string::npos;
      if (state.kind == "weight")
        (of_experts ? units.experts : units.dense).push_back(world.size() * state.flat.numel());
    }
  });
  return lines_of(config.run.folder);
}

}  // namespace

TEST_CASE("a step's line says what rank 0 sent over each axis: ZeRO-3 on two ranks") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.evaluation.paths = {folder.add("held_out.npy", token_bytes(90, 7))};
  config.evaluation.every_steps = 1;  // what it sends is not the step's
  Units units;
  const auto lines = run(config, units);
  REQUIRE(units.dense.size() == 5);  // embedding, three blocks, head
  REQUIRE(units.experts.size() == 3);
  // Every unit for the forward and again for the backward, but the last stage, whose backward follows at once.
  const int64_t gathered = 2 * sum(units.dense) - units.dense.back(), half_of_each = kDouble / 2;
  int steps = 0;
  for (const auto& line : lines) {
    if (!line.contains("loss")) continue;
    ++steps;
    CHECK(line.at("calls/shard/all_gather") == kRounds * (2 * 5 - 1));
    CHECK(line.at("sent_bytes/shard/all_gather") == kRounds * gathered * half_of_each);
    CHECK(line.at("calls/shard/reduce_scatter") == kRounds * 5);
    CHECK(line.at("sent_bytes/shard/reduce_scatter") == kRounds * sum(units.dense) * half_of_each);
    CHECK(line.at("calls/expert_shard/all_gather") == kRounds * 2 * 3);
    CHECK(line.at("sent_bytes/expert_shard/all_gather") == kRounds * 2 * sum(units.experts) * half_of_each);
    CHECK(line.at("calls/expert_shard/reduce_scatter") == kRounds * 3);
    CHECK(line.at("sent_bytes/expert_shard/reduce_scatter") == kRounds * sum(units.experts) * half_of_each);
    CHECK(line.at("calls/shard/all_reduce") == 1);  // the gradient norm
    CHECK(line.at("calls/world/all_reduce") == 4);  // target tokens, losses, expert counts, dropped assignments
    CHECK_FALSE(line.contains("calls/replicate/all_reduce"));
    CHECK_FALSE(line.contains("calls/shard/broadcast"));
    CHECK_FALSE(line.contains("copies_sent"));
  }
  CHECK(steps == 3);
  CHECK(lines.size() == 6);
}

TEST_CASE("copies of tokens and the bytes of their way are the same count: expert parallel") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.model.num_experts = 4;
  config.parallel.expert = 2;
  Units units;
  const auto lines = run(config, units);
  REQUIRE(lines.size() == static_cast<size_t>(config.train.steps));
  for (const auto& line : lines) {
    const int64_t sent = line.at("copies_sent"), received = line.at("copies_received");
    const int64_t width = config.model.d_model * kDouble, scores = config.model.top_k * kDouble;
    const int64_t ids = config.model.top_k * 4;
    CHECK(sent > 0);
    CHECK(received > 0);
    // A copy has its token's ids and scores; results and gradients follow. Each dispatch exchanges two counts first.
    const int64_t of_copies = sent * (ids + scores + 2 * width) + received * (2 * width + scores);
    const int64_t of_plans = kRounds * config.model.num_layers * 2 * kDouble;
    CHECK(line.at("sent_bytes/expert/all_to_all") == of_copies + of_plans);
  }
}

TEST_CASE("gradients reduced in bfloat16 send half the bytes of float32") {
  TempFolder folder;
  auto config = tiny_run(folder / "master");
  config.train.compute_dtype = ComputeDtype::float32;
  Units units;
  const auto master = run(config, units);
  config.run.folder = folder / "narrow";
  config.parallel.reduce_dtype = ReduceDtype::bfloat16;
  const auto narrow = run(config, units);
  REQUIRE(master.size() == 3);
  REQUIRE(narrow.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    const char* const key = "sent_bytes/shard/reduce_scatter";
    CHECK(2 * narrow[i].at(key).get<int64_t>() == master[i].at(key).get<int64_t>());
    CHECK(narrow[i].at("sent_bytes/shard/all_gather") == master[i].at("sent_bytes/shard/all_gather"));
  }
  CHECK(narrow.back().at("loss") != master.back().at("loss"));  // they were rounded
}

TEST_CASE("one rank sends nothing, and its lines say nothing of it") {
  TempFolder folder;
  run_single(tiny_run(folder / "run"));
  const auto lines = lines_of(folder / "run");
  CHECK(lines.size() == 3);
  for (const auto& line : lines)
    for (const auto& [key, value] : line.items()) CHECK_FALSE(is_traffic(key));
}
