// Ranks that were started otherwise are refused before they train, by the first difference.
#include "trainer/start_agreement.h"

#include <set>

#include "parallel/agreement.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// The error of all ranks, which must be the same on each, and agreed, so that one rank may report it.
std::string refusal(int ranks, const std::function<void(Communicator&)>& body) {
  std::vector<std::string> said(static_cast<size_t>(ranks), "nothing");
  run_ranks(ranks, [&](Communicator& world) {
    try {
      body(world);
    } catch (const ConfigError& error) {
      said[static_cast<size_t>(world.rank())] = is_agreed(error) ? error.what() : "not agreed";
    }
  });
  CHECK(std::set(said.begin(), said.end()).size() == 1);
  return said[0];
}

/// The same where ranks have the configs that `change` makes of one.
std::string start(int ranks, const std::function<void(Config&, int)>& change) {
  return refusal(ranks, [&](Communicator& world) {
    auto config = tiny_run("run");
    change(config, world.rank());
    agree_on_start(world, "olmoe-train", "none", config);
  });
}

/// And where each makes its trainer of it, which compares tokens and weights.
std::string make_trainers(int ranks, const Config& common, const std::function<void(Config&, int)>& change) {
  return refusal(ranks, [&](Communicator& world) {
    auto config = common;
    change(config, world.rank());
    Trainer(resolve_run(config, world.size()), world);
  });
}

Config run_on(const TempFolder& folder, const std::string& tokens) {
  auto config = tiny_run(folder / "run");
  config.data.synthetic = false;
  config.data.paths = {tokens};
  return config;
}

}  // namespace

TEST_CASE("ranks that were started alike are accepted, in worlds of 1, 2 and 5") {
  for (const int ranks : {1, 2, 5}) CHECK(start(ranks, [](Config&, int) {}) == "nothing");
}

TEST_CASE("the first field of the config that differs is named with all values and their ranks") {
  CHECK_THAT(start(2,
                   [](Config& config, int rank) {
                     if (rank == 1) config.optimizer.lr = 0.1;
                     if (rank == 1) config.log.every_steps = 7;  // comes later
                   }),
             Catch::Contains("not started alike: optimizer.lr: 0.001 on rank 0, 0.1 on rank 1. "));
  CHECK_THAT(start(5,
                   [](Config& config, int rank) {
                     if (rank == 2) config.train.steps = 9;
                     if (rank > 2) config.train.steps = 8;
                   }),
             Catch::Contains("train.steps: 3 on ranks 0-1, 9 on rank 2, 8 on ranks 3-4. "));
  // Rank 1 differs in a late field, rank 2 in an early one, which is reported.
  CHECK_THAT(start(3,
                   [](Config& config, int rank) {
                     if (rank == 1) config.evaluation.every_steps = 4;
                     if (rank == 2) config.model.top_k = 1;
                   }),
             Catch::Contains("model.top_k: 2 on ranks 0-1, 1 on rank 2. "));
}

TEST_CASE("every field of a config is compared, but for those that suit a host") {
  const std::set<std::string> may_differ{"run.threads",           "data.prefetch",   "data.paths",
                                         "evaluation.paths",      "evaluation.sets", "evaluation.tasks",
                                         "evaluation.final_tasks"};
  auto documented = document_config<Config>();
  std::set<std::string> compared;
  for (const auto& fact : config_facts(tiny_run("run"))) compared.insert(fact.name);
  std::istringstream rows(documented);
  int fields = 0;
  for (std::string row; std::getline(rows, row);) {
    if (!row.starts_with("| `")) continue;
    const auto path = row.substr(3, row.find('`', 3) - 3);
    if (path.find("[].") != std::string::npos) continue;  // of a list, which is compared whole
    CAPTURE(path);
    CHECK(compared.contains(path) == !may_differ.contains(path));
    ++fields;
  }
  CHECK(fields > 50);
}

TEST_CASE("threads, prefetching and folders of tokens may differ") {
  CHECK(start(2, [](Config& config, int rank) {
          config.run.threads = 1 + rank;
          config.data.prefetch = 1 + rank;
          config.data.paths = {rank == 0 ? "/a/x.npy" : "/b/x.npy"};
        }) == "nothing");
}

TEST_CASE("another program, version or list of fields is refused") {
  CHECK_THAT(refusal(2,
                     [](Communicator& world) {
                       const auto program = world.rank() == 0 ? "olmoe-train" : "olmoe-doctor";
                       agree_on_start(world, program, "none", tiny_run("run"));
                     }),
             Catch::Contains("program: olmoe-train on rank 0, olmoe-doctor on rank 1. "));
  const auto facts_of = [](int rank) {
    std::vector<StartFact> facts{{"version", "0.1"}, {"a", "1"}};
    if (rank == 1) facts[1].name = "b";
    return facts;
  };
  CHECK_THAT(refusal(2, [&](Communicator& world) { require_alike(world, facts_of(world.rank()), "Fix it"); }),
             Catch::Contains("a: 1 on rank 0, not known on rank 1. Fix it"));
  const auto more_of = [](int rank) {
    std::vector<StartFact> facts{{"version", "0.1"}};
    if (rank == 1) facts.push_back({"more", "1"});
    return facts;
  };
  CHECK_THAT(refusal(2, [&](Communicator& world) { require_alike(world, more_of(world.rank()), "Fix it"); }),
             Catch::Contains("some ranks have more fields than rank 0"));
}

TEST_CASE("token files with other contents are refused, the same contents in another folder are not") {
  const TempFolder folder;
  const auto a = folder.add("a/tokens.npy", token_bytes(600, 1));
  const auto same = folder.add("b/tokens.npy", token_bytes(600, 1));
  const auto other = folder.add("c/tokens.npy", token_bytes(600, 3));
  const auto config = run_on(folder, a);
  CHECK(make_trainers(2, config, [&](Config& of, int rank) { of.data.paths = {rank == 0 ? a : same}; }) == "nothing");
  const auto text = make_trainers(2, config, [&](Config& of, int rank) { of.data.paths = {rank == 0 ? a : other}; });
  CHECK_THAT(text, Catch::Contains("training tokens (data.paths): 1 files from tokens.npy, 50 sequences, hash ") &&
                       Catch::Contains(" on rank 0, 1 files from tokens.npy, 50 sequences, hash ") &&
                       Catch::Contains(" on rank 1. "));
}

TEST_CASE("so are evaluation sets, by number and by content") {
  const TempFolder folder;
  const auto a = folder.add("a/held.npy", token_bytes(60, 1)), other = folder.add("b/held.npy", token_bytes(60, 3));
  auto config = tiny_run(folder / "run");
  config.evaluation.paths = {a};
  CHECK_THAT(make_trainers(2, config, [&](Config& of, int rank) { of.evaluation.paths = {rank == 0 ? a : other}; }),
             Catch::Contains("evaluation set 1 (evaluation.paths): held, hash ") && Catch::Contains(" on rank 1. "));
  CHECK_THAT(make_trainers(2, config,
                           [&](Config& of, int rank) {
                             if (rank == 1) of.evaluation.paths.clear();
                           }),
             Catch::Contains("evaluation sets (evaluation.paths): 1 on rank 0, 0 on rank 1. "));
}

TEST_CASE("initial weights of other content are refused under one name") {
  const TempFolder folder;
  for (const std::string host : {"a", "b", "c"}) {
    folder.add(host + "/config.json", "{}");
    folder.add(host + "/model.safetensors", std::string(200'000, host == "c" ? 'y' : 'x'));
  }
  const auto compare = [&](const std::string& one, const std::string& two) {
    return refusal(2, [&](Communicator& world) { agree_on_weights(world, folder / (world.rank() == 0 ? one : two)); });
  };
  CHECK(compare("a", "b") == "nothing");
  CHECK_THAT(compare("a", "c"), Catch::Contains("train.init_from, model.safetensors: 200000 bytes, hash ") &&
                                    Catch::Contains(" on rank 0, 200000 bytes, hash "));
  CHECK_THAT(compare("a", "none"), Catch::Contains("files of weights (train.init_from): 2 on rank 0, 0 on rank 1. "));
}
