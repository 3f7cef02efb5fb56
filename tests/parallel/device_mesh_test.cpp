#include "parallel/device_mesh.h"

#include <ATen/ops/full.h>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

/// The world ranks of this rank's group, in group order.
std::vector<int64_t> members(Communicator& group, int world_rank) {
  at::Tensor all = at::full({group.size()}, -1, at::kLong);
  group.all_gather(all, at::full({1}, world_rank, at::kLong));
  return {all.data_ptr<int64_t>(), all.data_ptr<int64_t>() + all.numel()};
}

void check_members(Communicator& group, int world_rank, const std::vector<int64_t>& expected) {
  ENSURE(members(group, world_rank) == expected, "{}: wrong members", group.name());
}

std::string config_error(int ranks, MeshShape shape) {
  try {
    run_ranks(ranks, [&](Communicator& world) { DeviceMesh mesh(world, shape); });
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError";
}

}  // namespace

TEST_CASE("eight ranks as replicate 2 x shard 4, shard = expert_shard 2 x expert 2") {
  run_ranks(8, [](Communicator& world) {
    DeviceMesh mesh(world, {.replicate = 2, .shard = 4, .expert = 2});
    const int rank = world.rank(), base = rank / 4 * 4, pair = rank / 2 * 2;
    check_members(mesh.replicate(), rank, {rank % 4, rank % 4 + 4});
    check_members(mesh.shard(), rank, {base, base + 1, base + 2, base + 3});
    check_members(mesh.expert(), rank, {pair, pair + 1});
    check_members(mesh.expert_shard(), rank, {base + rank % 2, base + rank % 2 + 2});
    ENSURE(mesh.describe() == "world 8 = replicate 2 x shard 4 (expert 2 x expert_shard 2)", "{}", mesh.describe());
  });
}

TEST_CASE("every factorisation of six ranks is a mesh whose axes multiply") {
  for (int shard : {1, 2, 3, 6}) {
    for (int expert = 1; expert <= shard; ++expert) {
      if (shard % expert != 0) continue;
      run_ranks(6, [&](Communicator& world) {
        DeviceMesh mesh(world, {.replicate = 6 / shard, .shard = shard, .expert = expert});
        const int product = mesh.replicate().size() * mesh.expert().size() * mesh.expert_shard().size();
        ENSURE(product == 6 && mesh.shard().size() == shard, "axes multiply to {}", product);
        const int rank = mesh.replicate().rank() * shard + mesh.expert_shard().rank() * expert + mesh.expert().rank();
        ENSURE(rank == world.rank(), "coordinates of rank {} say {}", world.rank(), rank);
      });
    }
  }
}

TEST_CASE("impossible meshes name the fields in conflict") {
  CHECK(config_error(4, {.replicate = 2, .shard = 3}) ==
        "parallel.replicate x parallel.shard = 2 x 3 = 6, but 4 ranks run");
  CHECK(config_error(4, {.replicate = 1, .shard = 4, .expert = 3}) ==
        "parallel.expert = 3 does not divide parallel.shard = 4");
  CHECK(config_error(2, {.replicate = 0, .shard = 2}) == "parallel.replicate = 0, but it must be at least 1");
  CHECK(config_error(2, {.replicate = -1, .shard = -2}) == "parallel.replicate = -1, but it must be at least 1");
}
