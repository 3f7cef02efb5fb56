// Commands beside a process: what they get, how their end is told, and that they reach nobody but themselves.
#include "core/process/child_process.h"

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>

#include "core/error.h"
#include "support/catch.h"
#include "support/temp_folder.h"

namespace {

using namespace olmoe;
using How = ProcessEnd::How;
using Seconds = ChildProcess::Seconds;

constexpr Seconds kMinute{60};

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A command to its end, with what it printed.
struct Outcome {
  explicit Outcome(
      ShellCommand command, Seconds limit = kMinute, Seconds grace = kMinute,
      const std::function<bool()>& stop = [] { return false; }) {
    if (command.output.empty()) command.output = folder / "output";
    ChildProcess process(command);
    end = process.wait(limit, grace, stop);
    output = text_of(command.output);
  }
  TempFolder folder;
  ProcessEnd end;
  std::string output;
};

/// The number that a command writes to a file, once it is there.
pid_t read_pid(const std::string& path) {
  for (int i = 0; i < 6000; ++i) {
    if (const auto text = text_of(path); text.ends_with('\n')) return std::atoi(text.c_str());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  throw std::runtime_error("no number in " + path);
}

bool is_gone(const ProcessIdentity& process) {
  for (int i = 0; i < 500 && state_of(process) != ProcessState::gone; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return state_of(process) == ProcessState::gone;
}

}  // namespace

TEST_CASE("a command ends with an exit code or a signal") {
  const Outcome good({.text = "true"}), bad({.text = "exit 3"}), none({.text = "no-such-program-anywhere"});
  CHECK(good.end.succeeded());
  CHECK(good.end.describe() == "exit code 0");
  CHECK_FALSE(bad.end.succeeded());
  CHECK(bad.end.describe() == "exit code 3");
  CHECK(none.end.code == 127);
  CHECK(none.output.find("no-such-program-anywhere") != std::string::npos);
  const Outcome killed({.text = "kill -KILL $$"});
  CHECK_FALSE(killed.end.succeeded());
  CHECK(killed.end.describe() == "signal 9 (Killed)");
}

TEST_CASE("a command reads nothing, and what it prints is appended in order") {
  TempFolder folder;
  const auto output = folder.add("output", "before\n");
  const Outcome outcome({.text = "cat; echo one; echo two >&2; echo three", .output = output});
  CHECK(outcome.end.succeeded());
  CHECK(outcome.output == "before\none\ntwo\nthree\n");
}

TEST_CASE("a command whose output cannot be written is not started") {
  TempFolder folder;
  const auto output = folder / "missing/output";
  CHECK_THROWS_WITH(ChildProcess({.text = "touch " + folder / "ran", .output = output}),
                    Catch::Contains(output) && Catch::Contains("No such file or directory"));
  CHECK(::access((folder / "ran").c_str(), F_OK) != 0);
}

TEST_CASE("a command has the environment of this process, variables of its own, and none of those left out") {
  ::setenv("OLMOE_TEST_KEPT", "kept", 1);
  ::setenv("OLMOE_TEST_SET", "before", 1);
  ::setenv("OLMOE_TEST_OUT_1", "left out", 1);
  const Outcome outcome({.text = "echo \"$OLMOE_TEST_KEPT|$OLMOE_TEST_SET|$OLMOE_TEST_OUT_1|$OLMOE_TEST_OUT_2\"",
                         .variables = {{"OLMOE_TEST_SET", "a 'b' \"c\" $d"}, {"OLMOE_TEST_OUT_2", "its own"}},
                         .without = {"OLMOE_TEST_OUT_"}});
  CHECK(outcome.output == "kept|a 'b' \"c\" $d||its own\n");
  for (const char* name : {"OLMOE_TEST_KEPT", "OLMOE_TEST_SET", "OLMOE_TEST_OUT_1"}) ::unsetenv(name);
}

TEST_CASE("a command inherits no open file") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);  // without close-on-exec
  const Outcome outcome({.text = "ls /proc/$$/fd; readlink /proc/$$/fd/0"});
  CHECK(outcome.output == "0\n1\n2\n/dev/null\n");
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("a command that signals its whole group, or hangs up its session, reaches itself alone") {
  for (const auto* text : {"kill -KILL 0", "kill -TERM 0; sleep 60"}) {
    const Outcome outcome({.text = text});
    CHECK(outcome.end.how == How::signalled);
  }
  // Fields 5 and 6 of /proc/PID/stat: process group and session.
  const Outcome outcome({.text = "test \"$(cut -d' ' -f5,6 /proc/$$/stat)\" = \"$$ $$\""});
  CHECK(outcome.end.succeeded());
}

TEST_CASE("a command has the system's signals, although this process ignores or blocks some") {
  const auto before = ::signal(SIGPIPE, SIG_IGN);
  sigset_t blocked, mask;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &mask);
  const Outcome pipe({.text = "kill -PIPE $$"}), term({.text = "kill -TERM $$"});
  ::pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  ::signal(SIGPIPE, before);
  CHECK(pipe.end.describe() == "signal 13 (Broken pipe)");
  CHECK(term.end.describe() == "signal 15 (Terminated)");
}

TEST_CASE("a command has a lower priority") {
  const int nice = std::min(19, ::getpriority(PRIO_PROCESS, 0) + 10);
  const Outcome outcome({.text = "sleep 0.2; nice"});
  CHECK(outcome.output == std::to_string(nice) + "\n");
}

TEST_CASE("a command that hangs is ended with all that it started, those that ignore SIGTERM too") {
  TempFolder folder;
  const auto pid_file = folder / "pid";
  ChildProcess process({.text = "(trap '' TERM; echo $(sh -c 'echo $PPID') > " + pid_file + "; sleep 600) & wait",
                        .output = folder / "output"});
  const auto inner = identity_of(read_pid(pid_file));
  REQUIRE(state_of(inner) == ProcessState::running);
  CHECK_FALSE(process.poll());
  const auto end = process.wait(Seconds(0.1), Seconds(0.3), [] { return false; });
  CHECK(end.how == How::timed_out);
  CHECK(end.describe() == "its time limit");
  CHECK(process.poll()->how == How::timed_out);
  CHECK(is_gone(inner));
}

TEST_CASE("a command that is stopped may tidy up first") {
  TempFolder folder;
  const auto ready = folder / "ready";
  const Outcome outcome({.text = "trap 'echo tidied; exit 0' TERM; touch " + ready + "; while :; do sleep 0.02; done"},
                        kMinute, kMinute, [&] { return ::access(ready.c_str(), F_OK) == 0; });
  CHECK(outcome.end.how == How::stopped);
  CHECK_FALSE(outcome.end.succeeded());
  CHECK_THAT(outcome.output, Catch::EndsWith("tidied\n"));  // a shell may first say that its sleep was terminated
}

TEST_CASE("a command does not outlive its object") {
  TempFolder folder;
  ProcessIdentity inner;
  {
    const ChildProcess process({.text = "sleep 600", .output = folder / "output"});
    inner = process.identity();
    CHECK(state_of(inner) == ProcessState::running);
  }
  CHECK(is_gone(inner));
}

TEST_CASE("a group that another process left is ended by its leader's identity, and no other of the same number is") {
  TempFolder folder;
  ChildProcess process({.text = "sleep 600 & wait", .output = folder / "output"});
  auto earlier = process.identity();
  earlier.start_ticks -= 1;
  CHECK_FALSE(end_process_group(earlier, Seconds(0.1)));
  CHECK_FALSE(process.poll());
  CHECK(end_process_group(process.identity(), Seconds(0.1)));
  CHECK(process.wait(kMinute, kMinute, [] { return false; }).how == How::signalled);
  CHECK_FALSE(end_process_group(process.identity(), Seconds(0.1)));
}
