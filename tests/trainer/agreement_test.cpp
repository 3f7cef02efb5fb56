// What one rank finds wrong, all ranks say in the same words.
#include "parallel/agreement.h"

#include <atomic>

#include "support/catch.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

struct Said {
  std::string message;
  ExitCode code = ExitCode::ok;
  bool agreed = false;
  bool operator==(const Said&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Said& said) {
  return out << fmt::format("\"{}\", exit code {}, agreed: {}", said.message, static_cast<int>(said.code), said.agreed);
}

/// How `body` ends on each rank.
std::vector<Said> outcomes(int ranks, const std::function<void(Communicator&)>& body) {
  std::vector<Said> said(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](Communicator& world) {
    try {
      body(world);
    } catch (const Error& error) {
      said[static_cast<size_t>(world.rank())] = {error.what(), error.code(), is_agreed(error)};
    }
  });
  return said;
}

/// The same for ranks that agree on `work`, which gets its rank.
std::vector<Said> agreements(int ranks, const std::function<void(int)>& work) {
  return outcomes(ranks, [&](Communicator& world) { agree(world, [&] { work(world.rank()); }); });
}

Said start(const Config& config, int ranks) {
  const auto said = outcomes(ranks, [&](Communicator& world) { Trainer(resolve_run(config, world.size()), world); });
  CHECK(said == std::vector<Said>(said.size(), said[0]));
  return said[0];
}

/// Two token files, the second with an id outside the vocabulary.
/// The bad id lies between the samples that every rank looks at: only who reads the file whole finds it.
std::vector<std::string> good_and_bad(const TempFolder& folder) {
  constexpr int64_t kTokens = 128 << 10;
  auto bad = token_bytes(kTokens, 1);
  bad[2 * 4000] = 60;
  return {folder.add("good.npy", token_bytes(kTokens, 1)), folder.add("bad.npy", bad)};
}

}  // namespace

TEST_CASE("ranks that all succeed go on") {
  std::atomic<int> worked = 0;
  CHECK(agreements(3, [&](int) { ++worked; }) == std::vector<Said>(3));
  CHECK(worked == 3);
}

TEST_CASE("every rank throws the error of the lowest rank that failed, and names it") {
  const auto one = agreements(3, [](int rank) {
    if (rank == 1) throw CheckpointError("disk is full");
  });
  CHECK(one == std::vector<Said>(3, {"rank 1: disk is full", ExitCode::checkpoint, true}));
  const auto two = agreements(3, [](int rank) {
    if (rank > 0) throw Error(fmt::format("reason {}", rank), ExitCode::hang);
  });
  CHECK(two == std::vector<Said>(3, {"rank 1: reason 1 (2 of 3 ranks failed)", ExitCode::hang, true}));
}

TEST_CASE("what all ranks find is said as it is, an unknown exception as an internal error") {
  const auto all = agreements(2, [](int) { throw ConfigError("no such key"); });
  CHECK(all == std::vector<Said>(2, {"no such key", ExitCode::config, true}));
  const auto unknown = agreements(2, [](int) { throw std::runtime_error("what?"); });
  CHECK(unknown == std::vector<Said>(2, {"what?", ExitCode::internal, true}));
}

TEST_CASE("an agreed error keeps its type, and no other error passes for one") {
  const auto world = make_single_communicator();
  CHECK_THROWS_AS(agree(*world, [] { throw ConfigError("x"); }), ConfigError);
  CHECK_THROWS_AS(agree(*world, [] { throw DataError("x"); }), DataError);
  CHECK_THROWS_AS(agree(*world, [] { throw CheckpointError("x"); }), CheckpointError);
  CHECK_FALSE(is_agreed(DataError("x")));
}

TEST_CASE("a damaged file in one rank's share stops every rank, and leaves no run folder") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  const auto files = good_and_bad(folder);
  SECTION("of training tokens") {
    config.data.synthetic = false;
    config.data.paths = files;
  }
  SECTION("of evaluation tokens") { config.evaluation.paths = files; }
  const auto said = start(config, 2);
  CHECK(said.code == ExitCode::data);
  CHECK(said.agreed);
  CHECK_THAT(said.message, Catch::StartsWith("rank 1: ") && Catch::Contains("bad.npy: id 60"));
  CHECK_FALSE(fs::exists(folder / "run"));
}

TEST_CASE("a run folder that cannot be made is refused before token files are looked at") {
  TempFolder folder;
  const auto file = folder.add("file", "no folder");
  auto config = tiny_run(file + "/runs/new");
  config.data.synthetic = false;
  config.data.paths = {folder / "missing.npy"};
  const auto said = start(config, 2);
  CHECK(said.code == ExitCode::config);
  CHECK(said.agreed);
  CHECK_THAT(said.message, Catch::Contains("run.folder: ") && Catch::Contains(file));

  config.run.folder = folder / "runs/new";  // what is only missing can be made
  CHECK(start(config, 2).code == ExitCode::data);
}
