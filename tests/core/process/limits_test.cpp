// Errors that a limit of the process causes.
#include <fcntl.h>
#include <sys/resource.h>

#include <system_error>
#include <thread>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/process/process_limits.h"
#include "core/process/threads.h"
#include "support/catch.h"
#include "support/lowered_limit.h"
#include "support/temp_folder.h"

using namespace olmoe;
using test::LoweredLimit;

namespace {

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

/// A thread that the system does not give.
struct Refused {
  template <class Body>
  explicit Refused(Body&&) {
    throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
  }
};

}  // namespace

TEST_CASE("a write past ulimit -f is an error with that limit, not the end of the process") {
  const TempFolder folder;
  report_file_size_limit();
  const std::string path = folder / "large", bytes(5000, 'x');
  const std::string text = [&] {
    const LoweredLimit lowered(RLIMIT_FSIZE, 4096);
    CHECK(file_size_limit() == 4096);
    return error_of([&] { FileDescriptor(path, O_WRONLY | O_CREAT).write_all(std::as_bytes(std::span(bytes))); });
  }();
  CHECK(text == "cannot write '" + path + "': File too large (ulimit -f allows 4096 bytes a file)");
  CHECK(limit_behind(ENOSPC).empty());
}

TEST_CASE("the error for too many open files has ulimit -n") {
  const TempFolder folder;
  const std::string path = folder.add("there", "x");
  const std::string text = [&] {
    const LoweredLimit lowered(RLIMIT_NOFILE, 3);
    return error_of([&] { FileDescriptor(path, O_RDONLY); });
  }();
  CHECK(text == "cannot open '" + path + "': Too many open files (ulimit -n allows 3 open files)");
}

TEST_CASE("the limit of open files is raised to the hard limit") {
  const LoweredLimit lowered(RLIMIT_NOFILE, 40);
  CHECK(open_file_limit() == 40);
  raise_open_file_limit();
  rlimit limit{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(limit.rlim_cur == limit.rlim_max);
  CHECK(open_file_limit() > 40);
}

TEST_CASE("the error for a thread that cannot be started has its purpose and the limits") {
  CHECK_THROWS_AS(start_thread<Refused>("the thread of the loader", [] {}), ConfigError);
  const auto text = error_of([] { start_thread<Refused>("the thread of the loader", [] {}); });
  CHECK_THAT(text, Catch::StartsWith("cannot start the thread of the loader: Resource temporarily unavailable. Limits: "
                                     "ulimit -u ") &&
                       Catch::Contains("ulimit -v (address space, KiB) ") && Catch::Contains("lower run.threads"));
  bool ran = false;
  start_thread<std::thread>("a thread", [&] { ran = true; }).join();
  CHECK(ran);
  CHECK_NOTHROW(check_threads(8));
}
