#include "trainer/layout.h"

#include <fmt/ranges.h>

#include <numeric>
#include <vector>

namespace olmoe {
namespace {

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t d = 1; d <= n; ++d)
    if (n % d == 0) out.push_back(d);
  return out;
}

int64_t shard_ranks(const ParallelConfig& parallel, int64_t world) {
  const int64_t replicate = parallel.replicate;
  if (replicate > world || world % replicate != 0)
    throw ConfigError(fmt::format("parallel.replicate: {} does not divide the world of {} ranks; {} would", replicate,
                                  world, fmt::join(divisors(world), ", ")));
  const int64_t left = world / replicate;
  if (parallel.shard != 0 && parallel.shard != left)
    throw ConfigError(fmt::format(
        "parallel.replicate x parallel.shard = {} x {} = {}, but {} ranks run; start {}, or set parallel.shard to {}",
        replicate, parallel.shard, replicate * parallel.shard, world, replicate * parallel.shard, left));
  return left;
}

void check_expert(const Config& config, int64_t shard) {
  const int64_t expert = config.parallel.expert, num_experts = config.model.num_experts;
  if (config.model.ffn == Ffn::dense && expert > 1)
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

MeshShape mesh_shape(const Config& config, int world_size) {
  const int64_t shard = shard_ranks(config.parallel, world_size);
  check_expert(config, shard);
  return {static_cast<int>(config.parallel.replicate), static_cast<int>(shard),
          static_cast<int>(config.parallel.expert)};
}

}  // namespace olmoe
