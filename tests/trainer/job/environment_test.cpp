// Threads of a rank, and memory that stays in the process.
#include "trainer/job/environment.h"

#include <sched.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "support/catch.h"
#include "support/made_up_system.h"

namespace {

using namespace olmoe;

/// Gives an environment variable a value, or none, while it lives.
class Variable {
 public:
  explicit Variable(const char* name, const char* value = nullptr) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) const {
    if (value != nullptr)
      setenv(name_, value, /*overwrite=*/1);
    else
      unsetenv(name_);
  }

  const char* name_;
  std::optional<std::string> before_;
};

/// Binds this thread to the first of its cores while it lives.
class OneCore {
 public:
  OneCore() {
    ENSURE(sched_getaffinity(0, sizeof(before_), &before_) == 0, "cannot read the affinity");
    int first = 0;
    while (!CPU_ISSET(first, &before_)) ++first;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ENSURE(sched_setaffinity(0, sizeof(one), &one) == 0, "cannot bind to core {}", first);
  }
  ~OneCore() { sched_setaffinity(0, sizeof(before_), &before_); }
  OneCore(const OneCore&) = delete;
  OneCore& operator=(const OneCore&) = delete;

 private:
  cpu_set_t before_;
};

}  // namespace

TEST_CASE("the launcher tells the ranks of a node, an allocation around them does not") {
  const Variable no_mpi("OMPI_COMM_WORLD_LOCAL_SIZE"), no_hydra("MPI_LOCALNRANKS"),
      no_step("SLURM_STEP_TASKS_PER_NODE");
  const Variable allocation("SLURM_NTASKS_PER_NODE", "8");
  CHECK(ranks_on_node() == 1);
  const Variable step("SLURM_STEP_TASKS_PER_NODE", "4(x2)");
  CHECK(ranks_on_node() == 4);
  const Variable mpi("OMPI_COMM_WORLD_LOCAL_SIZE", "2");
  CHECK(ranks_on_node() == 2);
}

TEST_CASE("ranks share their launcher's cores, and keep those that they are bound to") {
  CHECK(threads_of_rank(8, 8, 1) == 8);
  CHECK(threads_of_rank(8, 8, 3) == 2);
  CHECK(threads_of_rank(2, 8, 4) == 2);  // bound: divided already
  CHECK(threads_of_rank(1, 64, 2) == 1);
  CHECK(threads_of_rank(2, 2, 4) == 1);
  CHECK(threads_of_rank(4, 4, 0) == 4);
}

TEST_CASE("threads follow the config, then OMP_NUM_THREADS, then the cores of the process") {
  const Variable none("OMP_NUM_THREADS");
  CHECK(choose_threads(3, 1) == 3);
  {
    const Variable five("OMP_NUM_THREADS", "5");
    CHECK(choose_threads(0, 2) == 5);
  }
  const test::MadeUpSystem system;  // without a quota
  cpu_set_t own;
  REQUIRE(sched_getaffinity(0, sizeof(own), &own) == 0);
  CHECK(choose_threads(0, 1, system.view()) == CPU_COUNT(&own));
  CHECK(choose_threads(0, 1 << 20) == 1);
  const OneCore bound;
  CHECK(choose_threads(0, 1) == 1);
}

TEST_CASE("a file that grows past its limit ends no process") {
  prepare_process();
  struct sigaction action {};
  REQUIRE(sigaction(SIGXFSZ, nullptr, &action) == 0);
  CHECK(action.sa_handler == SIG_IGN);
}

TEST_CASE("threads are no more than control groups and Slurm leave") {
  const Variable none("OMP_NUM_THREADS");
  const int cores = allowed_cores();
  test::MadeUpSystem system;
  system.in_group("/job_7/step_0");
  CHECK(choose_threads(0, 1, system.view()) == cores);
  const auto quota = [&](const std::string& text) { system.file("/sys/fs/cgroup/job_7/cpu.max", text + " 100000\n"); };
  quota("6400000");
  CHECK(choose_threads(0, 1, system.view()) == cores);
  quota("190000");
  CHECK(choose_threads(0, 1, system.view()) == 1);
  quota("50000");
  CHECK(choose_threads(0, 1, system.view()) == 1);
  CHECK(choose_threads(4, 1, system.view()) == 4);  // who says a number means it
  quota("max");
  system.variable("SLURM_CPUS_ON_NODE", "1");
  CHECK(choose_threads(0, 1, system.view()) == 1);
  system.variable("SLURM_CPUS_ON_NODE", "64").variable("SLURM_STEP_TASKS_PER_NODE", "1");
  system.variable("SLURM_CPUS_PER_TASK", "1");
  CHECK(choose_threads(0, 1, system.view()) == 1);
}

TEST_CASE("freed memory stays in the process, also where an int does not count it") {
  prepare_process();
  constexpr size_t kBytes = size_t{5} << 29;
  auto* block = static_cast<char*>(std::malloc(kBytes));
  REQUIRE(block != nullptr);
  *static_cast<volatile char*>(block) = 1;  // or the compiler leaves both calls out
  const void* end = sbrk(0);
  std::free(block);
  CHECK(sbrk(0) == end);
}
