#include "trainer/job/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <functional>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "trainer/job/environment.h"

namespace olmoe {
namespace {

constexpr auto kPause = std::chrono::milliseconds(50);

std::string path_of(const std::string& folder) { return folder + "/run.lock"; }

enum class Got { yes, held, no_locks };

Got take(int fd, int kind) {
  while (::flock(fd, kind | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    return errno == EWOULDBLOCK ? Got::held : Got::no_locks;
  }
  return Got::yes;
}

/// Whether `path` is still the file that `fd` has open: the holder removes it when it ends.
bool is_at(int fd, const std::string& path) {
  struct stat open {
  }, named{};
  return ::fstat(fd, &open) == 0 && ::stat(path.c_str(), &named) == 0 && open.st_dev == named.st_dev &&
         open.st_ino == named.st_ino;
}

std::string local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", ::localtime_r(&now, &parts));
  return text.data();
}

std::string holder(const std::string& path) {
  std::array<char, 256> text{};
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t bytes = fd < 0 ? 0 : ::read(fd, text.data(), text.size());
  if (fd >= 0) ::close(fd);
  const std::string_view line(text.data(), static_cast<size_t>(std::max<ssize_t>(0, bytes)));
  return line.find('\n') == std::string_view::npos ? "another process" : std::string(line.substr(0, line.find('\n')));
}

FileDescriptor open_lock(const std::string& path) {
  try {
    return {path, O_RDWR | O_CREAT};
  } catch (const Error& error) {
    throw ConfigError(fmt::format("run.folder: {}", error.what()));
  }
}

[[noreturn]] void refuse(const std::string& folder) {
  throw ConfigError(
      fmt::format("run.folder: {} is in use: {} trains in it. Two runs in one folder would overwrite "
                  "each other's checkpoints, so this one does not start. Wait for the other, stop it (on SIGTERM "
                  "it saves and leaves), or use another run.folder",
                  folder, holder(path_of(folder))));
}

/// Calls `attempt` until it returns something other than `held`. Throws ConfigError after `patience`.
Got wait_for(const std::string& folder, std::chrono::milliseconds patience, const std::function<Got()>& attempt) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (bool logged = false;; logged = true) {
    const auto got = attempt();
    if (got != Got::held) return got;
    if (std::chrono::steady_clock::now() >= deadline) refuse(folder);
    if (!logged)
      log::info("run.folder: {} is in use: {}; waiting {} ms in case it is just ending", folder,
                holder(path_of(folder)), patience.count());
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

RunLock::RunLock(const std::string& folder, std::chrono::milliseconds patience) : path_(path_of(folder)) {
  const auto got = wait_for(folder, patience, [&] {
    auto file = open_lock(path_);
    const auto result = take(file.fd(), LOCK_EX);
    if (result == Got::yes && !is_at(file.fd(), path_)) return Got::held;  // its holder has just removed it
    if (result == Got::yes) file_.emplace(std::move(file));
    return result;
  });
  if (got == Got::no_locks) {
    log::warn("run.folder: {} lies on a file system without locks ({}): nothing keeps a second run out of it", folder,
              std::strerror(errno));
    return;
  }
  const auto text = fmt::format("process {} on {}, since {}\n", ::getpid(), host_name(), local_time());
  if (::ftruncate(file_->fd(), 0) != 0 ||
      ::pwrite(file_->fd(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    log::warn("{}: cannot say who holds it: {}", path_, std::strerror(errno));
}

RunLock::~RunLock() {
  // Before the lock is released: then the file may be another run's, as it is if ours was removed meanwhile.
  if (file_ && is_at(file_->fd(), path_)) ::unlink(path_.c_str());
}

void RunLock::check_free(const std::string& folder, std::chrono::milliseconds patience) {
  const auto path = path_of(folder);
  wait_for(folder, patience, [&] {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Got::yes;  // no run; other problems of the folder are found elsewhere
    const auto got = take(fd, LOCK_SH);
    ::close(fd);
    return got;
  });
}

}  // namespace olmoe
