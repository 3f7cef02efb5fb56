// Whether a process that is named with host, boot and start time still lives.
#include "core/process/process_identity.h"

#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "support/catch.h"
#include "support/other_process.h"

using namespace olmoe;

TEST_CASE("a process knows itself, and is the same however often it asks") {
  const auto self = this_process();
  CHECK(self == this_process());
  CHECK(self.pid == ::getpid());
  CHECK(self.host == host_name());
  CHECK(self.boot.size() == 36);
  CHECK(self.pid_namespace.starts_with("pid:["));
  CHECK(self.start_ticks > 0);
  CHECK(state_of(self) == ProcessState::running);
}

TEST_CASE("another process of this host runs until it is killed, and a reused number is another process") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  test::OtherProcess process([&] {
    const int64_t ticks = this_process().start_ticks;
    if (::write(ends[1], &ticks, sizeof(ticks)) != sizeof(ticks)) ::_exit(1);
  });
  auto other = this_process();
  other.pid = process.pid();
  REQUIRE(::read(ends[0], &other.start_ticks, sizeof(other.start_ticks)) == sizeof(other.start_ticks));
  CHECK(state_of(other) == ProcessState::running);
  auto earlier = other;
  earlier.start_ticks -= 1;
  CHECK(state_of(earlier) == ProcessState::gone);
  process.kill();
  CHECK(state_of(other) == ProcessState::gone);
}

TEST_CASE("a process that has ended, and that nobody has waited for yet, is gone") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int64_t ticks = this_process().start_ticks;
    ::_exit(::write(ends[1], &ticks, sizeof(ticks)) == sizeof(ticks) ? 0 : 1);
  }
  auto ended = this_process();
  ended.pid = child;
  REQUIRE(::read(ends[0], &ended.start_ticks, sizeof(ended.start_ticks)) == sizeof(ended.start_ticks));
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  CHECK(::access(("/proc/" + std::to_string(child)).c_str(), F_OK) == 0);
  CHECK(state_of(ended) == ProcessState::gone);
  CHECK(::waitpid(child, nullptr, 0) == child);
}

TEST_CASE("nothing is said of a process of another host, boot or container") {
  for (auto part : {&ProcessIdentity::host, &ProcessIdentity::boot, &ProcessIdentity::pid_namespace}) {
    auto other = this_process();
    other.*part = "other";
    CHECK(state_of(other) == ProcessState::out_of_reach);
    other.pid = 1 << 30;
    CHECK(state_of(other) == ProcessState::out_of_reach);
  }
}
