// Which layouts are possible, beside an oracle that tries every grid.
#include "trainer/layout.h"

#include <limits>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "support/catch.h"

namespace {

using namespace olmoe;

Config config_of(int64_t replicate, int64_t shard, int64_t expert, int64_t num_experts = 64) {
  Config config;
  config.parallel.replicate = replicate;
  config.parallel.shard = shard;
  config.parallel.expert = expert;
  config.model.num_experts = num_experts;
  return config;
}

std::string problem_of(const Config& config, int world) {
  try {
    mesh_shape(config, world);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

/// Whether some way to number the ranks fills the grid, and the experts are dealt out evenly: by counting, not
/// dividing.
bool possible(const Config& config, int64_t world) {
  const auto& [replicate, shard, expert] =
      std::tuple(config.parallel.replicate, config.parallel.shard, config.parallel.expert);
  const int64_t num_experts = config.model.num_experts;
  bool fills = false, folds = false, deals = false;
  for (int64_t s = 1; s <= world; ++s) fills = fills || (replicate * s == world && (shard == 0 || shard == s));
  for (int64_t rest = 1; rest <= world; ++rest) folds = folds || replicate * expert * rest == world;
  for (int64_t each = 1; each <= num_experts; ++each) deals = deals || expert * each == num_experts;
  return fills && folds && deals;
}

struct Choice {
  Config config;
  int world;
};

/// What a refusal proposes: "...; 3 x 2, 2 x 3, 4 ranks would fit with parallel.expert = 1" are three choices.
std::vector<Choice> proposals_of(const std::string& problem, const Config& refused, int world) {
  const auto begin = problem.find("; ") + 2, end = problem.find(" would fit");
  std::istringstream list(problem.substr(begin, end - begin));
  std::vector<Choice> out;
  for (std::string item; std::getline(list >> std::ws, item, ',');) {
    Choice choice{refused, world};
    auto& parallel = choice.config.parallel;
    if (problem.ends_with(" with parallel.expert = 1")) parallel.expert = 1;
    const int64_t number = std::stoll(item);
    if (item.find(" x ") != std::string::npos) {
      parallel.replicate = number;
      parallel.shard = std::stoll(item.substr(item.find(" x ") + 3));
    } else if (item.ends_with(" ranks")) {
      choice.world = static_cast<int>(number);
    } else {
      (problem.starts_with("parallel.expert") ? parallel.expert : parallel.replicate) = number;
    }
    out.push_back(choice);
  }
  return out;
}

/// Calls f with every config that is looked at in a world: all replicas, four shards, experts that can and cannot be.
template <class F>
void for_each_config(int world, const F& f) {
  auto config = config_of(1, 0, 1);
  auto [replicate, shard, expert] =
      std::tie(config.parallel.replicate, config.parallel.shard, config.parallel.expert);
  for (int64_t num_experts : {60, 64})
    for (replicate = 1; replicate <= world + 1; ++replicate)
      for (int64_t each : {int64_t{0}, world / replicate, world / replicate + 1, int64_t{world}})
        for (expert = 1; expert <= world + 1; ++expert) {
          shard = each;
          config.model.num_experts = num_experts;
          f(config);
        }
}

}  // namespace

TEST_CASE("layouts are accepted and refused as counting says, for worlds of 1 to 64 ranks") {
  int64_t accepted = 0, refused = 0, wrong = 0;
  for (int world = 1; world <= 64; ++world)
    for_each_config(world, [&](const Config& config) {
      const bool fits = problem_of(config, world).empty();
      wrong += fits != possible(config, world);
      ++(fits ? accepted : refused);
    });
  CHECK(wrong == 0);
  CHECK(accepted > 2000);
  CHECK(refused > 2000);
}

TEST_CASE("what a refused layout's message proposes is possible") {
  int64_t proposed = 0, impossible = 0, silent = 0;
  for (int world = 1; world <= 64; ++world)
    for_each_config(world, [&](const Config& config) {
      const auto problem = problem_of(config, world);
      if (problem.empty()) return;
      const auto choices = proposals_of(problem, config, world);
      silent += choices.empty();
      for (const auto& choice : choices) {
        ++proposed;
        impossible += !possible(choice.config, choice.world);
      }
    });
  CHECK(silent == 0);
  CHECK(impossible == 0);
  CHECK(proposed > 10000);
}

TEST_CASE("a layout that does not fit names the two fields in conflict and what would fit") {
  CHECK(problem_of(config_of(4, 0, 1), 6) ==
        "parallel.replicate: 4 does not divide the world of 6 ranks; 1, 2, 3, 6 would fit");
  CHECK(problem_of(config_of(8, 0, 1), 4) ==
        "parallel.replicate: 8 does not divide the world of 4 ranks; 1, 2, 4 would fit");
  CHECK(problem_of(config_of(8, 0, 2), 6) ==
        "parallel.replicate: 8 does not divide the world of 6 ranks; 1, 3 would fit");
  CHECK(problem_of(config_of(2, 2, 1), 6) ==
        "parallel.replicate x parallel.shard = 2 x 2 = 4, but the world has 6 ranks; 3 x 2, 2 x 3, 4 ranks would fit");
  CHECK(problem_of(config_of(4, 2, 1), 6) ==
        "parallel.replicate x parallel.shard = 4 x 2 = 8, but the world has 6 ranks; 3 x 2, 8 ranks would fit");
  CHECK(problem_of(config_of(4, 2, 3, 6), 6) ==
        "parallel.replicate x parallel.shard = 4 x 2 = 8, but the world has 6 ranks; 3 x 2, 8 ranks would fit with "
        "parallel.expert = 1");
  CHECK(problem_of(config_of(1, 8, 3), 8) ==
        "parallel.expert: 3 does not divide parallel.shard = 8; 1, 2, 4, 8 would fit");
  CHECK(problem_of(config_of(1, 0, 6, 8), 6) ==
        "parallel.expert: 6 does not divide model.num_experts = 8; 1, 2 would fit");
  auto dense = config_of(1, 0, 2);
  dense.model.ffn = Ffn::dense;
  CHECK(problem_of(dense, 2) == "parallel.expert: 2, but model.ffn is dense and has no experts; 1 would fit");
}

TEST_CASE("the ranks that a config speaks of are counted without overflow") {
  CHECK(configured_ranks(config_of(1, 0, 1)) == 1);
  CHECK(configured_ranks(config_of(32, 8, 1)) == 256);
  CHECK(configured_ranks(config_of(1, kMostRanks, 1)) == kMostRanks);
  const int64_t most = std::numeric_limits<int64_t>::max();
  for (const auto& [replicate, shard] : {std::pair<int64_t, int64_t>{65536, 65536}, {2, most}, {most, 0}, {most, most}})
    CHECK_THROWS_WITH(configured_ranks(config_of(replicate, shard, 1)),
                      Catch::StartsWith(fmt::format("parallel.replicate x parallel.shard = {} x {} are more than ",
                                                    replicate, std::max<int64_t>(1, shard))));
  CHECK_THROWS_AS(mesh_shape(config_of(2, most, 1), 4), ConfigError);
}

TEST_CASE("a shard of 0 takes the ranks that replicas leave") {
  const auto shape = mesh_shape(config_of(2, 0, 3, 6), 12);
  CHECK(shape.replicate == 2);
  CHECK(shape.shard == 6);
  CHECK(shape.expert == 3);
  CHECK(shape.expert_shard() == 2);
}
