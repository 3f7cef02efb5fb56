// What signals do to a process, each in a child process of its own. tests/e2e/test_signals.py sends them to runs.
#include "trainer/job/preemption.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <map>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/log.h"
#include "core/process/bus_errors.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "trainer/job/environment.h"

namespace {

using namespace olmoe;
using preemption::Moment;

/// How a child process that did `work` ended: its exit code, or minus the signal that ended it. `says`: its stderr.
int ending_of(const std::function<int()>& work, const std::string& says) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (std::freopen(says.c_str(), "w", stderr) == nullptr) ::_exit(99);
    ::_exit(work());
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// The same of a run: `work` is done with a listener.
int ending(const std::function<void()>& work, const std::string& says = "/dev/null") {
  const auto run = [&] {
    const auto world = make_single_communicator();
    {
      const preemption::Listener listener(*world);
      work();
    }
    ::raise(SIGTERM);  // the run is being taken down
    return preemption::requested();
  };
  return ending_of(run, says);
}

int64_t count_of(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// Maps 10,000 bytes of a file, which then has 100.
const std::byte* map_and_cut(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY);
  const void* const mapped = ::mmap(nullptr, 10000, PROT_READ, MAP_SHARED, file.fd(), 0);
  if (mapped == MAP_FAILED || ::truncate(path.c_str(), 100) != 0) ::_exit(98);
  return static_cast<const std::byte*>(mapped);
}

[[noreturn]] void read_beyond(const std::byte* mapped) {
  const auto beyond = static_cast<const volatile std::byte*>(mapped)[9000];
  ::_exit(beyond == std::byte{'x'} ? 97 : 96);
}

}  // namespace

TEST_CASE("after its run a process only notes signals, and leaves by itself") {
  CHECK(ending([] {}) == SIGTERM);
  for (const auto moment : {Moment::training, Moment::saving, Moment::evaluating, Moment::ended})
    CHECK(ending([=] { preemption::enter(moment), ::raise(SIGUSR2); }) == SIGUSR2);
}

TEST_CASE("while a run starts a signal ends it with 75") {
  const auto wait = [] { ::raise(SIGUSR1), ::sleep(60); };  // no signal that nohup or a shell ignores
  CHECK(ending(wait) == static_cast<int>(ExitCode::preempted));
}

TEST_CASE("signals of failed calls are ignored, and the table has each signal once") {
  CHECK(ending([] { preemption::enter(Moment::training), ::raise(SIGPIPE), ::raise(SIGXFSZ); }) == SIGTERM);
  for (const auto& rule : preemption::rules()) {
    CHECK(std::ranges::count(preemption::rules(), rule.signal, &preemption::Rule::signal) == 1);
    CHECK(preemption::name_of(rule.signal) == rule.name);
  }
  CHECK(preemption::name_of(SIGQUIT) == "signal 3");
}

TEST_CASE("signals that the parent process blocked are handled") {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  CHECK(ending([] { preemption::enter(Moment::training), ::raise(SIGUSR1); }) == SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("simultaneous signals are each answered, also at the end of the run") {
  const TempFolder folder;
  constexpr int kRuns = 1000;
  const auto runs = [] {
    log::set_level(log::Level::info);  // whatever the tests before it have set
    const auto world = make_single_communicator();
    for (int run = 0; run < kRuns; ++run) {
      const preemption::Listener listener(*world);
      preemption::enter(Moment::training);
      ::raise(SIGUSR2);
      // The others come, and the run ends, at any point of the answer to the first, which takes some 50 us.
      const auto then = std::chrono::steady_clock::now() + std::chrono::nanoseconds(run * 200);
      while (std::chrono::steady_clock::now() < then) continue;
      ::raise(SIGUSR1);
      ::raise(SIGTERM);
    }
    return 0;
  };
  CHECK(ending_of(runs, folder / "says") == 0);
  const auto says = read_text(folder / "says");
  for (const std::string name : {"SIGTERM", "SIGUSR1", "SIGUSR2"})
    CHECK(count_of(says, name + ": this step is finished and saved") == kRuns);
}

TEST_CASE("a mapped file that becomes shorter ends the process with its name and kind") {
  const TempFolder folder;
  const std::map<std::string, ExitCode> files{{"tokens.npy", ExitCode::data},
                                              {"shard.safetensors", ExitCode::checkpoint}};
  for (const auto& [name, code] : files) {
    const auto path = folder.add(name, std::string(10000, 'x')), says = folder / "says";
    const auto shrink = [&path = path] {
      prepare_process();
      read_beyond(map_and_cut(path));
    };
    CHECK(ending(shrink, says) == static_cast<int>(code));
    CHECK_THAT(read_text(says), Catch::Contains(path + ": was truncated while it was read"));
  }
  const auto other = [] {
    prepare_process();
    preemption::enter(Moment::training);
    ::raise(SIGBUS);
    ::sleep(60);
  };
  CHECK(ending(other) == -SIGBUS);
}

TEST_CASE("a guarded copy is told of a file that was cut, other reads end the process, whichever was asked for first") {
  const bool guarded_first = GENERATE(false, true);
  const TempFolder folder;
  const auto guarded = folder.add("tokens.npy", std::string(10000, 'x'));
  const auto other = folder.add("shard.safetensors", std::string(10000, 'x'));
  const auto read_both = [&] {
    std::array<std::byte, 10> bytes{};
    const auto from = bytes;
    if (guarded_first && !guarded_copy(bytes, from.data())) ::_exit(94);
    explain_bus_errors();
    const auto* const mapped = map_and_cut(guarded);
    if (!guarded_copy(bytes, mapped) || guarded_copy(bytes, mapped + 9000)) ::_exit(95);
    read_beyond(map_and_cut(other));
  };
  CHECK(ending(read_both) == static_cast<int>(ExitCode::checkpoint));
}
