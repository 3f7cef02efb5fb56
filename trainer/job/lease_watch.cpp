#include "trainer/job/lease_watch.h"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/log.h"

namespace olmoe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLooks = 100;  // until a lease expires, or more
constexpr std::chrono::milliseconds kShortestPause(1), kLongestPause(500);

std::string folder_of(const std::string& path) { return std::filesystem::path(path).parent_path().string(); }

double seconds(std::chrono::milliseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

std::string lease_path(const std::string& folder) { return folder + "/run.lock"; }

LeaseWatch::LeaseWatch(std::string path, LeaseTimes times) : path_(std::move(path)), times_(times) {}

std::chrono::milliseconds LeaseWatch::unchanged() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - same_since_);
}

LeaseWatch::Verdict LeaseWatch::look() {
  const auto before = text_;
  text_ = read_lease(path_);
  return judge(before);
}

LeaseWatch::Verdict LeaseWatch::judge(const std::optional<std::string>& before) {
  const auto earlier = record_;
  record_ = text_ ? LeaseRecord::parse(*text_) : std::nullopt;
  if (!text_) return Verdict::free;
  if (text_ != before) same_since_ = Clock::now();
  if (record_) {
    const auto state = state_of(record_->holder);
    if (state == ProcessState::running) return Verdict::living;
    if (state == ProcessState::gone) return Verdict::dead;
    if (earlier && earlier->token == record_->token && earlier->renewals != record_->renewals) return Verdict::living;
  }
  return unchanged() >= times_.expiry ? Verdict::dead : Verdict::unsure;
}

LeaseWatch::Verdict LeaseWatch::wait() {
  for (;; pause()) {
    const auto verdict = look();
    if (verdict != Verdict::unsure) return verdict;
    if (!std::exchange(said_, true))
      log::info(
          "run.folder: {} was in use by {}, which this host cannot look up, or which is just ending; waiting for "
          "{} s: this run takes over unless the other renews its lease ({})",
          folder_of(path_), holder(), seconds(times_.expiry), path_);
  }
}

void LeaseWatch::check_free() {
  try {
    if (wait() == Verdict::living) refuse();
  } catch (const FileError& error) {
    throw ConfigError(fmt::format("run.folder: {}", error.what()));
  }
}

void LeaseWatch::refuse() const {
  throw ConfigError(
      fmt::format("run.folder: {} is in use: {} trains in it. Two runs in one folder would overwrite "
                  "each other's checkpoints, so this one does not start. Wait for the other, stop it (on SIGTERM "
                  "it saves and leaves), or use another run.folder",
                  folder_of(path_), holder()));
}

std::string LeaseWatch::holder() const { return record_ ? record_->describe() : "another process"; }

std::string LeaseWatch::reason() const {
  return unchanged() >= times_.expiry ? fmt::format("did not renew it for {} s", seconds(times_.expiry)) : "has ended";
}

void LeaseWatch::pause() const {
  std::this_thread::sleep_for(std::clamp(times_.expiry / kLooks, kShortestPause, kLongestPause));
}

}  // namespace olmoe
