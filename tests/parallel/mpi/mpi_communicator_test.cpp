#include "parallel/collectives/mpi_communicator.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "parallel/device_mesh.h"
#include "support/catch.h"
#include "world.h"

using namespace olmoe;

TEST_CASE("mpi ranks: every collective meets its oracle to the last bit") {
  for (const CollectiveCase& test : collective_cases()) {
    DYNAMIC_SECTION(test.name) { REQUIRE_NOTHROW(test.check(mpi_world(), at::kCPU)); }
  }
}

TEST_CASE("a start by mpirun is detected") { REQUIRE(launched_by_mpi()); }

TEST_CASE("every rank notices that rank 0 makes another call") {
  auto group = mpi_world().split(0, 0, "mismatch");
  auto mismatch = [&] { group->rank() == 0 ? group->barrier() : group->all_reduce(at::zeros({4})); };
  if (group->size() == 1) {
    REQUIRE_NOTHROW(mismatch());  // a group of one agrees with itself
    return;
  }
  const std::string text = error_of(mismatch);
  REQUIRE(text.find("all_reduce (Float, 16 bytes") != std::string::npos);
  REQUIRE(text.find("barrier") != std::string::npos);
}

TEST_CASE("a mesh over mpi ranks") {
  const int ranks = mpi_world().size();
  DeviceMesh mesh(mpi_world(), {.replicate = 1, .shard = ranks, .expert = ranks});
  at::Tensor sum = at::full({1}, mesh.expert().rank(), at::kLong);
  mesh.expert().all_reduce(sum);
  REQUIRE(sum.data_ptr<int64_t>()[0] == ranks * (ranks - 1) / 2);
  REQUIRE(mesh.expert_shard().size() == 1);
}

// 2^31 + 5 bytes in one message, 5 GB of memory on two ranks: ctest runs it once, as mpi_large.
TEST_CASE("a message longer than an int can count", "[.large]") {
  Communicator& world = mpi_world();
  constexpr int64_t kBytes = (int64_t{1} << 31) + 5;
  at::Tensor bytes = at::full({kBytes}, world.rank() == 0 ? 7 : 0, at::kByte);
  if (world.rank() == 0) bytes.data_ptr<uint8_t>()[kBytes - 1] = 9;
  world.broadcast(bytes, 0);
  REQUIRE(bytes.data_ptr<uint8_t>()[0] == 7);
  REQUIRE(bytes.data_ptr<uint8_t>()[kBytes - 2] == 7);
  REQUIRE(bytes.data_ptr<uint8_t>()[kBytes - 1] == 9);
}
