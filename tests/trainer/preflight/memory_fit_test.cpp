// A memory plan compared with made-up machines, and what a start refuses.
#include "trainer/preflight/memory_fit.h"

#include "core/error.h"
#include "support/catch.h"
#include "support/made_up_system.h"
#include "support/trainer_fixtures.h"
#include "trainer/device/cuda_device.h"
#include "trainer/device/device_facts.h"
#include "trainer/device/gpu_specs.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;
using Verdict = MemoryFit::Verdict;

constexpr int64_t kMib = 1 << 20, kGib = 1 << 30;

std::vector<MemoryBound> shared(int64_t total_bytes, int64_t free_bytes) {
  return {{"the machine", total_bytes, free_bytes, /*shared=*/true}};
}

}  // namespace

TEST_CASE("a plan fits, is close, is beyond what is free, or beyond what there is") {
  const auto bounds = shared(1000 * kMib, 600 * kMib);
  CHECK(fit_memory(540 * kMib, 1, bounds).verdict == Verdict::fits);
  CHECK(fit_memory(541 * kMib, 1, bounds).verdict == Verdict::close);
  CHECK(fit_memory(600 * kMib, 1, bounds).verdict == Verdict::close);
  CHECK(fit_memory(601 * kMib, 1, bounds).verdict == Verdict::beyond_free);
  CHECK(fit_memory(1000 * kMib, 1, bounds).verdict == Verdict::beyond_free);
  CHECK(fit_memory(1001 * kMib, 1, bounds).verdict == Verdict::beyond_total);
}

TEST_CASE("ranks share the machine, but not what each process may take") {
  auto bounds = shared(4 * kGib, 4 * kGib);
  CHECK(fit_memory(1 * kGib, 4, bounds).verdict == Verdict::close);
  CHECK(fit_memory(1 * kGib, 5, bounds).verdict == Verdict::beyond_total);
  CHECK(fit_memory(INT64_MAX / 2, 1 << 20, bounds).verdict == Verdict::beyond_total);  // more than 63 bits count
  bounds.push_back({"ulimit -v", 2 * kGib, 2 * kGib, /*shared=*/false});
  const auto fit = fit_memory(1 * kGib, 2, bounds);
  CHECK(fit.verdict == Verdict::fits);
  CHECK(fit_memory(5 * kGib / 2, 1, bounds).bound.source == "ulimit -v");
  CHECK(fit_memory(5 * kGib / 2, 1, bounds).verdict == Verdict::beyond_total);
}

TEST_CASE("a plan is told beside its tightest bound, with both figures") {
  MadeUpSystem system;
  system.in_group("/job_7").file("/sys/fs/cgroup/job_7/memory.max", "1258291200\n");
  const auto bounds = read_device_facts(at::kCPU, system.view()).memory;
  CHECK(describe(fit_memory(881 * kMib, 2, bounds)) ==
        "2 ranks of 881.0 MiB here are 1.72 GiB, more than the 1.17 GiB of memory.max of /job_7: this cannot fit. "
        "docs/memory.md says what to change first");
  CHECK(describe(fit_memory(500 * kMib, 2, bounds)) ==
        "2 ranks of 500.0 MiB here are 1000.0 MiB; 1.17 GiB of 1.17 GiB free (memory.max of /job_7)");
  CHECK_THAT(describe(fit_memory(1100 * kMib, 1, bounds)),
             Contains("the plan of a rank is 1.07 GiB; 1.17 GiB of 1.17 GiB free") && Contains("close"));
  system.file("/sys/fs/cgroup/job_7/memory.current", "629145600\n");
  CHECK_THAT(describe(fit_memory(1100 * kMib, 1, read_device_facts(at::kCPU, system.view()).memory)),
             Contains("but only 600.0 MiB of 1.17 GiB free (memory.max of /job_7): a run may be killed"));
}

TEST_CASE("a dry run plans for --gpu, else for this machine, else for the largest known GPU") {
  const MadeUpSystem system;
  auto config = tiny_run("unused");
  CHECK(planned_bounds(config, "", system.view())[0].source == "the machine");
  CHECK(planned_bounds(config, "h100", system.view())[0].total_bytes == 80'000'000'000);
  CHECK_FALSE(planned_bounds(config, "h100", system.view())[0].shared);
  if (cuda::device_count() > 0) return;  // then the GPU that is here
  config.train.device = DeviceKind::cuda;
  const auto bounds = planned_bounds(config, "", system.view());
  REQUIRE(bounds.size() == 1);
  for (const auto& gpu : known_gpus()) CHECK(static_cast<double>(bounds[0].total_bytes) >= gpu.memory_bytes);
  CHECK_THAT(bounds[0].source, Contains("b200, the largest GPU known here; name yours with --gpu"));
}
