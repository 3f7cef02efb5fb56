// Possible layouts, compared with an oracle that tries every grid.
#include "trainer/config/mesh_shape.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>
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

struct Choice {
  int64_t replicate, shard, expert, num_experts, world;
};

/// Whether some way to number the ranks fills the grid, and the experts are dealt out evenly: by counting, not
/// dividing.
bool possible(const Choice& choice) {
  const auto& [replicate, shard, expert, num_experts, world] = choice;
  bool fills = false, folds = false, deals = false;
  for (int64_t s = 1; s <= world; ++s) fills = fills || (replicate * s == world && (shard == 0 || shard == s));
  for (int64_t rest = 1; rest <= world; ++rest) folds = folds || replicate * expert * rest == world;
  for (int64_t each = 1; each <= num_experts; ++each) deals = deals || expert * each == num_experts;
  return fills && folds && deals;
}

/// What a refusal proposes: "...; 3 x 2, 2 x 3, 4 ranks would fit with parallel.expert = 1" are three choices.
std::vector<Choice> proposals_of(const std::string& problem, const Choice& refused) {
  const auto begin = problem.find("; ") + 2, end = problem.find(" would fit");
  std::istringstream list(problem.substr(begin, end - begin));
  std::vector<Choice> out;
  for (std::string item; std::getline(list >> std::ws, item, ',');) {
    Choice choice = refused;
    if (problem.find(" would fit with parallel.expert = 1") != std::string::npos) choice.expert = 1;
    const int64_t number = std::stoll(item);
    if (const auto by = item.find(" x "); by != std::string::npos) {
      choice.replicate = number;
      choice.shard = std::stoll(item.substr(by + 3));
    } else if (item.ends_with(" ranks")) {
      choice.world = number;
    } else {
      (problem.starts_with("parallel.expert") ? choice.expert : choice.replicate) = number;
    }
    out.push_back(choice);
  }
  return out;
}

/// Choices of a world: all replicas, four shards, experts that can and cannot be shared so.
std::vector<Choice> choices_of(int64_t world) {
  std::vector<Choice> out;
  for (int64_t num_experts : {60, 64})
    for (int64_t replicate = 1; replicate <= world + 1; ++replicate)
      for (int64_t shard : {int64_t{0}, world / replicate, world / replicate + 1, world})
        for (int64_t expert = 1; expert <= world + 1; expert += expert < 16 ? 1 : 4)
          out.push_back({replicate, shard, expert, num_experts, world});
  return out;
}

}  // namespace

TEST_CASE("layouts of 1 to 64 ranks are refused like by an oracle, and proposals are possible") {
  int64_t accepted = 0, wrong = 0, proposed = 0, impossible = 0, without_proposal = 0;
  for (int world = 1; world <= 64; ++world)
    for (const auto& choice : choices_of(world)) {
      const auto config = config_of(choice.replicate, choice.shard, choice.expert, choice.num_experts);
      const auto problem = problem_of(config, world);
      wrong += problem.empty() != possible(choice);
      accepted += problem.empty();
      if (problem.empty()) continue;
      const auto proposals = proposals_of(problem, choice);
      without_proposal += proposals.empty();
      proposed += std::ssize(proposals);
      impossible += std::ranges::count_if(proposals, [](const Choice& each) { return !possible(each); });
    }
  CHECK(wrong == 0);
  CHECK(accepted > 1000);
  CHECK(impossible == 0);
  CHECK(without_proposal == 0);
  CHECK(proposed > 100000);
}

TEST_CASE("a layout that does not fit names the two fields in conflict and what would fit") {
  CHECK(problem_of(config_of(4, 0, 1), 6) ==
        "parallel.replicate: 4 does not divide the world of 6 ranks; 1, 2, 3, 6 would fit");
  CHECK(problem_of(config_of(8, 0, 1), 4) ==
        "parallel.replicate: 8 does not divide the world of 4 ranks; 1, 2, 4 would fit");
  CHECK(problem_of(config_of(8, 0, 2), 6) ==
        "parallel.replicate: 8 does not divide the world of 6 ranks; 1, 3 would fit");
  CHECK(problem_of(config_of(2, 2, 1), 6) ==
        "parallel.replicate x parallel.shard = 2 x 2 = 4, but the world has 6 ranks; 3 x 2, 2 x 3, 4 ranks would fit"
        ". parallel.shard=0 takes as many as there are");
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
