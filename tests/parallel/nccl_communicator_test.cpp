// The shared cases over NCCL, with as many ranks as there are GPUs; and over host memory, for ranks that share a GPU.
#include "parallel/nccl_communicator.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "collective_cases.h"
#include "core/error.h"
#include "parallel/thread_communicator.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

int count_gpus() {
  const int gpus = c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount();
  REQUIRE(gpus > 0);  // a machine without one cannot tell anything here
  return gpus;
}

at::Device gpu_of(int rank) { return {at::kCUDA, static_cast<c10::DeviceIndex>(rank)}; }

/// Thread ranks with a GPU each, joined by NCCL.
void run_gpu_ranks(int ranks, const std::function<void(Communicator&, at::Device)>& body) {
  run_ranks(ranks, [&](Communicator& threads) {
    const at::Device device = gpu_of(threads.rank());
    const auto world = make_nccl_communicator(threads.split(0, threads.rank(), "world"), device);
    ENSURE(world->size() == ranks && world->rank() == threads.rank(), "rank {} of {}", world->rank(), world->size());
    body(*world, device);
  });
}

}  // namespace

TEST_CASE("NCCL: every collective meets its oracle, on every number of GPUs", "[cuda]") {
  const int gpus = count_gpus();
  for (int ranks = 1; ranks <= gpus; ++ranks)
    for (const CollectiveCase& test : collective_cases()) {
      INFO(test.name << " on " << ranks << " GPUs");
      REQUIRE_NOTHROW(run_gpu_ranks(ranks, test.check));
    }
}

TEST_CASE("NCCL: tensors in host memory go over the host's communicator", "[cuda]") {
  for (const CollectiveCase& test : collective_cases()) {
    INFO(test.name);
    REQUIRE_NOTHROW(run_gpu_ranks(count_gpus(), [&](Communicator& world, at::Device) { test.check(world, at::kCPU); }));
  }
}

TEST_CASE("ranks that share a GPU meet in host memory", "[cuda]") {
  const int ranks = GENERATE(1, 2, 3);
  const at::Device shared = gpu_of(count_gpus() - 1);
  for (const CollectiveCase& test : collective_cases()) {
    INFO(test.name << " on " << ranks << " ranks");
    REQUIRE_NOTHROW(run_ranks(ranks, [&](Communicator& world) { test.check(world, shared); }));
  }
}

TEST_CASE("NCCL: a CPU is refused by name", "[cuda]") {
  const std::string text = error_of([] {
    make_nccl_communicator(make_single_communicator(), at::kCPU);
  });
  check_contains(text, "NCCL joins GPUs, not cpu");
}
