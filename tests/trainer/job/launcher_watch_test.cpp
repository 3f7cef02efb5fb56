// A rank notices that its launcher has ended.
#include "trainer/job/launcher_watch.h"

#include <poll.h>
#include <unistd.h>

#include <map>

#include "support/catch.h"
#include "support/other_process.h"

using namespace olmoe;
using namespace std::chrono_literals;

TEST_CASE("a process whose parent is killed notices it, once, and not before") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  test::OtherProcess launcher([&] {
    if (::fork() != 0) return;
    const LauncherWatch watch([&](int parent) { ::_exit(::write(ends[1], &parent, sizeof(parent)) > 0 ? 0 : 1); }, 5ms);
    ::sleep(30);
    ::_exit(2);
  });
  ::close(ends[1]);
  pollfd answer{ends[0], POLLIN, 0};
  CHECK(::poll(&answer, 1, 100) == 0);
  const int pid = launcher.pid();
  launcher.kill();
  REQUIRE(::poll(&answer, 1, 10'000) == 1);
  int noticed = 0;
  REQUIRE(::read(ends[0], &noticed, sizeof(noticed)) == sizeof(noticed));
  CHECK(noticed == pid);
  char more = 0;
  CHECK(::read(ends[0], &more, 1) == 0);  // it ended
}

TEST_CASE("a watch ends without waiting for its next look") {
  const auto begin = std::chrono::steady_clock::now();
  {
    const LauncherWatch watch([](int) {}, 1h);
  }
  CHECK(std::chrono::steady_clock::now() - begin < 1min);
}

TEST_CASE("ranks of mpirun, srun and torchrun have a launcher, those of a shell have none") {
  const auto started_with = [](const std::map<std::string, std::string>& variables) {
    return has_launcher([&](const char* name) {
      const auto found = variables.find(name);
      return found == variables.end() ? nullptr : found->second.c_str();
    });
  };
  CHECK(started_with({{"OMPI_COMM_WORLD_SIZE", "2"}}));
  CHECK(started_with({{"PMI_RANK", "0"}}));
  CHECK(started_with({{"SLURM_STEP_NUM_TASKS", "4"}}));
  CHECK(started_with({{"TORCHELASTIC_RUN_ID", "x"}, {"RANK", "0"}}));
  CHECK_FALSE(started_with({{"RANK", "0"}, {"WORLD_SIZE", "2"}}));
  CHECK_FALSE(started_with({{"SLURM_NTASKS", "4"}}));
  CHECK_FALSE(started_with({}));
}
