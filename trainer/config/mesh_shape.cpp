#include "trainer/config/mesh_shape.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace olmoe {
namespace {

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t d = 1; d <= n; ++d)
    if (n % d == 0) out.push_back(d);
  return out;
}

struct Grid {
  int64_t replicate, shard;
};

/// Whether the ranks that share one copy can share the experts as parallel.expert says.
bool expert_fits(const Config& config, int64_t shard) {
  const int64_t expert = config.parallel.expert;
  return expert == 1 || (config.model.has_experts() && shard % expert == 0 && config.model.num_experts % expert == 0);
}

/// Proposes `grids` in the words of `text`: those that parallel.expert fits too, or else all of them, without expert
/// parallelism.
std::string proposal(const Config& config, const std::vector<Grid>& grids,
                     const std::function<std::string(const Grid&)>& text) {
  std::vector<std::string> fitting, all;
  for (const auto& grid : grids) {
    all.push_back(text(grid));
    if (expert_fits(config, grid.shard)) fitting.push_back(all.back());
  }
  return fitting.empty() ? fmt::format("{} would fit with parallel.expert = 1", fmt::join(all, ", "))
                         : fmt::format("{} would fit", fmt::join(fitting, ", "));
}

int64_t shard_beside(const Config& config, int64_t world) {
  const int64_t replicate = config.parallel.replicate;
  if (world % replicate == 0) return world / replicate;
  std::vector<Grid> grids;
  for (int64_t each : divisors(world)) grids.push_back({each, world / each});
  const auto text = [](const Grid& grid) { return std::to_string(grid.replicate); };
  throw ConfigError(fmt::format("parallel.replicate: {} does not divide the world of {} ranks; {}", replicate, world,
                                proposal(config, grids, text)));
}

/// Proposes to keep one of the two fields, or both and to take another number of ranks.
void check_product(const Config& config, int64_t world) {
  const int64_t replicate = config.parallel.replicate, shard = config.parallel.shard;
  const int64_t ranks = configured_ranks(config);
  if (ranks == world) return;
  std::vector<Grid> grids;
  if (world % shard == 0) grids.push_back({world / shard, shard});
  if (world % replicate == 0) grids.push_back({replicate, world / replicate});
  grids.push_back({replicate, shard});
  const auto text = [&](const Grid& grid) {
    return grid.replicate * grid.shard == world ? fmt::format("{} x {}", grid.replicate, grid.shard)
                                                : fmt::format("{} ranks", ranks);
  };
  const auto rest = world % replicate == 0 ? ". parallel.shard=0 takes as many as there are" : "";
  throw ConfigError(fmt::format("parallel.replicate x parallel.shard = {} x {} = {}, but the world has {} ranks; {}{}",
                                replicate, shard, ranks, world, proposal(config, grids, text), rest));
}

void check_expert(const Config& config, int64_t shard) {
  const int64_t expert = config.parallel.expert, num_experts = config.model.num_experts;
  if (!config.model.has_experts() && expert > 1)
    throw ConfigError(
        fmt::format("parallel.expert: {}, but model.ffn is dense and has no experts; 1 would fit", expert));
  const auto fitting = divisors(std::gcd(shard, num_experts));
  if (shard % expert != 0)
    throw ConfigError(fmt::format("parallel.expert: {} does not divide parallel.shard = {}; {} would fit", expert,
                                  shard, fmt::join(fitting, ", ")));
  if (num_experts % expert != 0 && expert > 1)
    throw ConfigError(fmt::format("parallel.expert: {} does not divide model.num_experts = {}; {} would fit", expert,
                                  num_experts, fmt::join(fitting, ", ")));
}

}  // namespace

int configured_ranks(const Config& config) {
  const int64_t replicate = config.parallel.replicate, shard = std::max<int64_t>(1, config.parallel.shard);
  if (replicate > kMostRanks / shard)
    throw ConfigError(fmt::format("parallel.replicate x parallel.shard = {} x {} are more than {} ranks", replicate,
                                  shard, kMostRanks));
  return static_cast<int>(replicate * shard);
}

MeshShape mesh_shape(const Config& config, int world_size) {
  if (config.parallel.shard != 0) check_product(config, world_size);
  const int64_t shard = shard_beside(config, world_size);
  check_expert(config, shard);
  return {static_cast<int>(config.parallel.replicate), static_cast<int>(shard),
          static_cast<int>(config.parallel.expert)};
}

}  // namespace olmoe
