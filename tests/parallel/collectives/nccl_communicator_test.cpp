// The shared cases over NCCL, with as many ranks as there are GPUs; and over host memory, for ranks that share a GPU.
#include "parallel/collectives/nccl_communicator.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

int count_gpus() {
  const int gpus = c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount();
  REQUIRE(gpus > 0);  // a machine without one tests nothing here
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

TEST_CASE("NCCL: tensors in host memory use the host's communicator", "[cuda]") {
  for (const CollectiveCase& test : collective_cases()) {
    INFO(test.name);
    REQUIRE_NOTHROW(run_gpu_ranks(count_gpus(), [&](Communicator& world, at::Device) { test.check(world, at::kCPU); }));
  }
}

TEST_CASE("ranks that share a GPU exchange host memory", "[cuda]") {
  const int ranks = GENERATE(1, 2, 3);
  const at::Device shared = gpu_of(count_gpus() - 1);
  for (const CollectiveCase& test : collective_cases()) {
    INFO(test.name << " on " << ranks << " ranks");
    REQUIRE_NOTHROW(run_ranks(ranks, [&](Communicator& world) { test.check(world, shared); }));
  }
}

// With one GPU too: the world is a group of NCCL's, made, used and finalized as any other.
TEST_CASE("NCCL: collectives use registered buffers, which are freed before their group or after it", "[cuda]") {
  constexpr int64_t kPart = 4096;
  const bool group_first = GENERATE(false, true);
  run_gpu_ranks(count_gpus(), [&](Communicator& world, at::Device device) {
    const int64_t ranks = world.size();
    auto group = world.split(0, world.rank(), "shard");
    auto other = world.split(0, world.rank(), "expert_shard");
    at::Tensor memory = world.buffers().allocate(ranks * kPart * static_cast<int64_t>(sizeof(float)), device);
    group->buffers().register_buffer(memory);
    other->buffers().register_buffer(memory);
    at::Tensor flat = memory.view(at::kFloat), own = flat.narrow(0, world.rank() * kPart, kPart);
    for (Communicator* user : {&world, group.get(), other.get()}) {
      flat.zero_();
      own.fill_(world.rank() + 1);
      user->all_gather(flat, own);
      ENSURE(flat.sum().item<double>() == static_cast<double>(kPart * ranks * (ranks + 1) / 2), "gathered {}",
             flat.sum().item<double>());
      user->reduce_scatter(own, flat);
      ENSURE(own.sum().item<double>() == static_cast<double>(kPart * ranks * (world.rank() + 1)), "reduced to {}",
             own.sum().item<double>());
    }
    if (group_first) group.reset(), other.reset();
    flat = own = memory = at::Tensor();
  });
}

TEST_CASE("NCCL: a buffer of another origin is not registered", "[cuda]") {
  run_gpu_ranks(count_gpus(), [&](Communicator& world, at::Device device) {
    const auto other = at::zeros({16}, at::device(device).dtype(at::kByte));
    check_contains(error_of([&] { world.buffers().register_buffer(other); }), "was not allocated by a group over NCCL");
    world.buffers().register_buffer(other.cpu());
  });
}

TEST_CASE("NCCL: a CPU is refused by name", "[cuda]") {
  const std::string text = error_of([] { make_nccl_communicator(make_single_communicator(), at::kCPU); });
  check_contains(text, "NCCL joins GPUs, not cpu");
}
