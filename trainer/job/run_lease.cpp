#include "trainer/job/run_lease.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/process/threads.h"

namespace olmoe {
namespace {

using Clock = std::chrono::steady_clock;

bool is_no_room(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

double seconds(std::chrono::steady_clock::duration time) { return std::chrono::duration<double>(time).count(); }

[[noreturn]] void throw_cannot_write(const std::string& path, int error) {
  const auto text = fmt::format("cannot write '{}', which keeps other runs out: {}", path, std::strerror(error));
  if (is_no_room(error)) throw CheckpointError(text + ". Make room, and start the same command again");
  throw FileError(text);
}

}  // namespace

RunLease::RunLease(const std::string& folder, LeaseTimes times) : RunLease(LeaseWatch(lease_path(folder), times)) {}

RunLease::RunLease(LeaseWatch watch, const std::function<void()>& make_room)
    : path_(watch.path()), times_(watch.times()), claim_(path_ + ".next", times_) {
  try {
    acquire(watch, make_room);
  } catch (const FileError& error) {
    throw ConfigError(fmt::format("run.folder: {}", error.what()));
  }
  try {
    thread_ = start_thread<std::thread>("the thread that renews the lease of run.folder", [this] { keep(); });
  } catch (const ConfigError&) {
    release();
    throw;
  }
}

RunLease::~RunLease() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
  release();
}

LeaseWatch RunLease::check_free(const std::string& folder, LeaseTimes times) {
  LeaseWatch watch(lease_path(folder), times);
  watch.check_free();
  return watch;
}

void RunLease::acquire(LeaseWatch& watch, const std::function<void()>& make_room) {
  for (;;) {
    const auto verdict = watch.wait();
    if (verdict == LeaseWatch::Verdict::living) watch.refuse();
    const bool taken = verdict == LeaseWatch::Verdict::dead ? take_over(watch, make_room) : create();
    if (taken) return;
  }
}

bool RunLease::create() {
  auto file = FileDescriptor::create_new(path_);
  if (!file) return false;
  file_ = std::move(file);
  renewed_at_ = Clock::time_point();  // a takeover that failed may have written its claim
  const int error = write(*file_);
  if (error == 0) return true;
  if (!is_no_room(error)) {
    release();
    throw_cannot_write(path_, error);
  }
  log::warn("cannot write '{}', which keeps other runs out: {}. This run saves nothing until there is room for it",
            path_, std::strerror(error));
  return true;
}

/// The new record is made beside the dead one, under a name that one process at a time can have, and then renamed over
/// it: of several that take over at the same time one wins.
bool RunLease::take_over(const LeaseWatch& dead, const std::function<void()>& make_room) {
  auto claim = FileDescriptor::create_new(claim_.path());
  if (!claim) {  // of another process, which renames it in a moment, or died before that
    if (claim_.look() == LeaseWatch::Verdict::dead) ::unlink(claim_.path().c_str());
    claim_.pause();
    return false;
  }
  const auto withdraw = [&] { ::unlink(claim_.path().c_str()); };
  int error = write(*claim);
  if (is_no_room(error) && make_room && read_lease(path_) == dead.text()) {  // the claim keeps others out
    make_room();
    error = write(*claim);
  }
  if (error != 0) {
    withdraw();
    throw_cannot_write(claim_.path(), error);
  }
  // Where two find a dead one's claim at the same time, one may remove or rename the other's: the file decides.
  const auto there = read_lease(path_);
  if (there != dead.text() && !is_mine(there)) {
    withdraw();
    return false;
  }
  log::warn("run.folder: taking over {} from {}, which {}", path_, dead.holder(), dead.reason());
  if (there == dead.text() && std::rename(claim_.path().c_str(), path_.c_str()) != 0 && errno != ENOENT) {
    error = errno;
    withdraw();
    throw_cannot_write(path_, error);
  }
  std::this_thread::sleep_for(times_.settling);
  if (!is_mine(read_lease(path_))) return false;
  file_ = std::move(claim);
  return true;
}

/// Returns 0 or errno.
int RunLease::write(const FileDescriptor& file) {
  const auto begin = Clock::now();
  const auto text = record_.text();
  try {
    file.write_at(0, std::as_bytes(std::span(text)));
    file.sync();
    renewed_at_ = begin;
    write_error_ = 0;
  } catch (const FileError& error) {
    write_error_ = error.reason();
  }
  return write_error_;
}

bool RunLease::is_written() const { return renewed_at_.load() != Clock::time_point(); }

bool RunLease::is_mine(const std::optional<std::string>& text) const {
  if (!text) return false;
  if (!is_written()) return text->empty();
  const auto record = LeaseRecord::parse(*text);
  return record && record->token == record_.token;
}

void RunLease::release() {
  try {
    if (is_mine(read_lease(path_))) ::unlink(path_.c_str());
  } catch (const std::exception& error) {
    log::warn("{}: it stays, and means nothing once this process has ended", error.what());
  }
}

void RunLease::keep() {
  std::unique_lock lock(mutex_);
  while (!lost_ && !changed_.wait_for(lock, times_.renewal, [&] { return ended_; })) {
    lock.unlock();
    renew();
    lock.lock();
  }
}

void RunLease::renew() {
  const int before = write_error_;
  try {
    if (const auto text = read_lease(path_); !is_mine(text)) {
      lost_ = true;
      return log::error("{}", why_lost(text));
    }
  } catch (const FileError& error) {
    log::warn("{}", error.what());
  }
  record_.renew();
  const int error = write(*file_);
  if (error != before && error != 0) log::warn("cannot renew '{}': {}", path_, std::strerror(error));
  if (error != before && error == 0) log::info("renewed '{}' again", path_);
}

/// `text` is that of the file that is no longer this lease's.
std::string RunLease::why_lost(const std::optional<std::string>& text) const {
  const auto other = text ? LeaseRecord::parse(*text) : std::nullopt;
  const auto what = !text    ? "somebody removed it"
                    : !other ? "another process wrote it"
                             : "it is now that of " + other->describe();
  return fmt::format(
      "the lease of this run, {}, is lost: {}. This run saves nothing any more. Start it again once no "
      "other run is in this folder: it resumes from the newest checkpoint",
      path_, what);
}

void RunLease::ensure_held() const {
  const int error = write_error_;
  const auto reason = error == 0 ? std::string() : fmt::format(" ({})", std::strerror(error));
  if (!is_written())
    throw CheckpointError(
        fmt::format("'{}', which keeps other runs out, could not be written yet{}: nothing is saved. "
                    "Make room, and start the same command again",
                    path_, reason));
  std::optional<std::string> text;
  try {
    text = read_lease(path_);
  } catch (const FileError& problem) {
    throw CheckpointError(fmt::format("{}: it may be another run's by now, so nothing is saved", problem.what()));
  }
  if (!is_mine(text)) {
    lost_ = true;
    throw CheckpointError(why_lost(text));
  }
  const auto age = Clock::now() - renewed_at_.load();
  if (age > times_.trust())
    throw CheckpointError(
        fmt::format("the lease of this run, {}, was not renewed for {:.3g} s{}, more than {:.3g}: "
                    "another run may have taken over, so nothing is saved. Start the same command "
                    "again: it resumes from the newest checkpoint",
                    path_, seconds(age), reason, seconds(times_.trust())));
}

}  // namespace olmoe
