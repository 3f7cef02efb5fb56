// Which layouts are possible, beside an oracle that tries every grid.
#include "trainer/layout.h"

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
bool possible(int64_t replicate, int64_t shard, int64_t expert, int64_t num_experts, int64_t world) {
  bool fills = false, folds = false, deals = false;
  for (int64_t s = 1; s <= world; ++s) fills = fills || (replicate * s == world && (shard == 0 || shard == s));
  for (int64_t rest = 1; rest <= world; ++rest) folds = folds || replicate * expert * rest == world;
  for (int64_t each = 1; each <= num_experts; ++each) deals = deals || expert * each == num_experts;
  return fills && folds && deals;
}

}  // namespace

TEST_CASE("layouts are accepted and refused as counting says, for worlds of 1 to 64 ranks") {
  int64_t accepted = 0, refused = 0, wrong = 0;
  for (int world = 1; world <= 64; ++world)
    for (int64_t replicate = 1; replicate <= world + 1; ++replicate)
      for (int64_t shard : {int64_t{0}, world / replicate, world / replicate + 1, int64_t{world}})
        for (int64_t expert = 1; expert <= world + 1; ++expert) {
          const int64_t num_experts = expert % 2 == 0 ? 64 : 60;
          const bool fits = problem_of(config_of(replicate, shard, expert, num_experts), world).empty();
          wrong += fits != possible(replicate, shard, expert, num_experts, world);
          ++(fits ? accepted : refused);
        }
  CHECK(wrong == 0);
  CHECK(accepted > 1000);
  CHECK(refused > 1000);
}

TEST_CASE("a layout that does not fit names the two fields in conflict and what would fit") {
  CHECK(problem_of(config_of(4, 0, 1), 6) ==
        "parallel.replicate: 4 does not divide the world of 6 ranks; 1, 2, 3, 6 would");
  CHECK(problem_of(config_of(8, 0, 1), 4) ==
        "parallel.replicate: 8 does not divide the world of 4 ranks; 1, 2, 4 would");
  CHECK(problem_of(config_of(2, 2, 1), 6) ==
        "parallel.replicate x parallel.shard = 2 x 2 = 4, but 6 ranks run; start 4, or set parallel.shard to 3");
  CHECK(problem_of(config_of(1, 8, 3), 8) ==
        "parallel.expert: 3 does not divide parallel.shard = 8; 1, 2, 4, 8 would fit");
  CHECK(problem_of(config_of(1, 0, 6, 8), 6) ==
        "parallel.expert: 6 does not divide model.num_experts = 8; 1, 2 would fit");
  auto dense = config_of(1, 0, 2);
  dense.model.ffn = Ffn::dense;
  CHECK(problem_of(dense, 2) == "parallel.expert: 2, but model.ffn is dense and has no experts; 1 would fit");
}

TEST_CASE("a shard of 0 takes the ranks that replicas leave") {
  const auto shape = mesh_shape(config_of(2, 0, 3, 6), 12);
  CHECK(shape.replicate == 2);
  CHECK(shape.shard == 6);
  CHECK(shape.expert == 3);
  CHECK(shape.expert_shard() == 2);
}
