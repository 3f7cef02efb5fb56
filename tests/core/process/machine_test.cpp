// Bounds of memory and CPUs, from files of made-up systems and of the real one.
#include "core/process/machine.h"

#include <sched.h>

#include <algorithm>

#include "core/error.h"
#include "core/process/cgroups.h"
#include "support/catch.h"
#include "support/made_up_system.h"

namespace {

using namespace olmoe;
using olmoe::test::MadeUpSystem;

constexpr int64_t kKib = 1024, kMib = 1 << 20;

/// The bound that leaves least.
MemoryBound least(const MadeUpSystem& system) { return tightest(memory_bounds(system.view())); }

void check(const MemoryBound& bound, const std::string& source, int64_t total_bytes, int64_t free_bytes) {
  CHECK(bound.source == source);
  CHECK(bound.total_bytes == total_bytes);
  CHECK(bound.free_bytes == free_bytes);
}

}  // namespace

TEST_CASE("without limits the bound is the machine's memory") {
  const MadeUpSystem system;
  const auto bounds = memory_bounds(system.view());
  REQUIRE(bounds.size() == 1);
  check(bounds[0], "the machine", 16'000'000 * kKib, 12'000'000 * kKib);
  CHECK(bounds[0].shared);
}

TEST_CASE("a machine without a memory size in /proc/meminfo is an error") {
  MadeUpSystem system;
  system.file("/proc/meminfo", "MemTotal: 16000000 kB\n");
  CHECK_THROWS_WITH(memory_bounds(system.view()), Catch::Contains("does not have the memory of this machine"));
}

TEST_CASE("control groups of version 2: all groups of the path count, file pages are free") {
  MadeUpSystem system;
  system.in_group("/job_7/step_0");
  const std::string job = "/sys/fs/cgroup/job_7", step = job + "/step_0";
  system.file(job + "/memory.max", "1258291200\n").file(job + "/memory.current", "314572800\n");
  system.file(job + "/memory.stat", "anon 104857600\ninactive_file 104857600\nactive_file 52428800\n");
  system.file(step + "/memory.max", "max\n").file(step + "/memory.current", "1000\n");
  check(least(system), "memory.max of /job_7", 1200 * kMib, (1200 - 300 + 150) * kMib);
  CHECK(least(system).shared);

  SECTION("memory.high") {
    system.file(step + "/memory.high", "1048576000\n");
    check(least(system), "memory.high of /job_7/step_0", 1000 * kMib, 1000 * kMib - 1000);
  }
  SECTION("a group that holds more than it may") {
    system.file(job + "/memory.current", "2097152000\n");
    CHECK(least(system).free_bytes == (1200 - 2000 + 150) * kMib);
  }
  SECTION("the files of version 1 are not read") {
    system.file(job + "/memory.limit_in_bytes", "1\n");
    CHECK(least(system).source == "memory.max of /job_7");
  }
}

TEST_CASE("control groups of version 1: only those count that count their children") {
  MadeUpSystem system;
  system.mounted("35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n", "4:memory:/a/b\n");
  const std::string top = "/sys/fs/cgroup/memory", above = top + "/a", own = above + "/b";
  system.file(top + "/memory.limit_in_bytes", "9223372036854771712\n").file(top + "/memory.usage_in_bytes", "1\n");
  system.file(own + "/memory.limit_in_bytes", "2097152000\n").file(own + "/memory.usage_in_bytes", "1048576\n");
  system.file(above + "/memory.limit_in_bytes", "1048576000\n").file(above + "/memory.usage_in_bytes", "104857600\n");
  system.file(above + "/memory.stat", "inactive_file 1\ntotal_inactive_file 1048576\ntotal_active_file 1048576\n");
  check(least(system), "memory.limit_in_bytes of /a", 1000 * kMib, 902 * kMib);

  system.file(above + "/memory.use_hierarchy", "0\n");
  check(least(system), "memory.limit_in_bytes of /a/b", 2000 * kMib, 1999 * kMib);
  system.file(own + "/memory.use_hierarchy", "0\n");
  CHECK(least(system).source == "memory.limit_in_bytes of /a/b");
}

TEST_CASE("a container sees only its own group, under any path on the machine") {
  MadeUpSystem system;
  const auto limit = [&](const std::string& file) {
    system.file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576000\n");
    system.file("/sys/fs/cgroup/memory/memory.usage_in_bytes", file);
  };
  SECTION("version 1") {
    system.in_docker_group("/docker/0123abc");
    limit("1048576\n");
    check(least(system), "memory.limit_in_bytes of /docker/0123abc", 1000 * kMib, 999 * kMib);
    system.file("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
    system.file("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    CHECK(tightest(cpu_bounds(system.view())).cpus <= 1.5);
  }
  SECTION("a process that was moved out of the name space") {
    system.in_group("/../../other");
    system.file("/sys/fs/cgroup/memory.max", "1048576000\n").file("/sys/fs/cgroup/memory.current", "0\n");
    check(least(system), "memory.max of /", 1000 * kMib, 1000 * kMib);
  }
}

TEST_CASE("Slurm's allocation counts on its nodes, not in the shell that requested it") {
  MadeUpSystem system;
  system.variable("SLURM_MEM_PER_NODE", "4096");
  CHECK(memory_bounds(system.view()).size() == 1);
  system.variable("SLURM_CPUS_ON_NODE", "4");
  check(least(system), "SLURM_MEM_PER_NODE", 4096 * kMib, 4096 * kMib);
  CHECK(least(system).shared);
  SECTION("by CPU") {
    system.variable("SLURM_MEM_PER_CPU", "512");
    check(least(system), "SLURM_MEM_PER_CPU", 2048 * kMib, 2048 * kMib);
  }
  SECTION("by GPU") {
    system.variable("SLURM_MEM_PER_GPU", "512").variable("SLURM_GPUS_ON_NODE", "2");
    check(least(system), "SLURM_MEM_PER_GPU", 1024 * kMib, 1024 * kMib);
  }
  SECTION("0 is all of the node") {
    system.variable("SLURM_MEM_PER_NODE", "0");
    CHECK(memory_bounds(system.view()).size() == 1);
  }
}

TEST_CASE("limits of the shell hold for each process separately") {
  MadeUpSystem system;
  system.file("/proc/self/limits",
              "Max data size             1048576000           unlimited            bytes     \n"
              "Max address space         2097152000           unlimited            bytes     \n");
  const auto bounds = memory_bounds(system.view());
  REQUIRE(bounds.size() == 3);
  check(bounds[1], "ulimit -v", 2000 * kMib, 2000 * kMib - 300'000 * kKib);
  check(bounds[2], "ulimit -d", 1000 * kMib, 1000 * kMib - 100'000 * kKib);
  CHECK_FALSE(bounds[1].shared);
  CHECK_FALSE(bounds[2].shared);
}

TEST_CASE("CPUs are the cores of the affinity, or fewer by a quota or Slurm") {
  MadeUpSystem system;
  cpu_set_t own;
  REQUIRE(sched_getaffinity(0, sizeof(own), &own) == 0);
  CHECK(allowed_cores() == CPU_COUNT(&own));
  auto bounds = cpu_bounds(system.view());
  REQUIRE(bounds.size() == 1);
  CHECK(bounds[0].cpus >= CPU_COUNT(&own));

  system.in_group("/job_7/step_0").file("/sys/fs/cgroup/job_7/cpu.max", "50000 100000\n");
  system.file("/sys/fs/cgroup/job_7/step_0/cpu.max", "max 100000\n");
  bounds = cpu_bounds(system.view());
  REQUIRE(bounds.size() == 2);
  CHECK(tightest(bounds).source == "cpu.max of /job_7");
  CHECK(tightest(bounds).cpus == 0.5);

  system.variable("SLURM_CPUS_ON_NODE", "6");
  bounds = cpu_bounds(system.view());
  REQUIRE(bounds.size() == 3);
  CHECK(bounds[2].source == "SLURM_CPUS_ON_NODE");
  CHECK(bounds[2].cpus == 6);
}

TEST_CASE("the CPUs of a Slurm task count for ranks that srun started") {
  MadeUpSystem system;
  system.variable("SLURM_CPUS_PER_TASK", "3");
  CHECK(cpus_of_slurm_task(8, system.view()) == std::nullopt);  // a program alone in a batch script
  system.variable("SLURM_STEP_TASKS_PER_NODE", "8(x2)");
  CHECK(cpus_of_slurm_task(8, system.view()) == 3);
  system.variable("SLURM_STEP_TASKS_PER_NODE", "1");
  CHECK(cpus_of_slurm_task(8, system.view()) == std::nullopt);  // 8 ranks of an mpirun that is a step of one task
}

TEST_CASE("memory and CPUs of this system are known") {
  const auto bounds = memory_bounds();
  CHECK(bounds[0].total_bytes > 100 * kMib);
  CHECK(tightest(bounds).free_bytes > 0);
  CHECK(tightest(bounds).free_bytes <= bounds[0].total_bytes);
  CHECK(tightest(cpu_bounds()).cpus > 0);
}

TEST_CASE("control groups that limit threads are named, those above this process's too") {
  MadeUpSystem system;
  system.in_group("/job_7/step_0")
      .file("/sys/fs/cgroup/job_7/pids.max", "4096\n")
      .file("/sys/fs/cgroup/job_7/step_0/pids.max", "max\n");
  const auto limits = cgroups::task_limits(system.view().root);
  REQUIRE(limits.size() == 1);
  CHECK(limits[0].name == "pids.max of /job_7");
  CHECK(limits[0].tasks == 4096);
}
