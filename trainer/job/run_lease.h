#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/files/file_descriptor.h"
#include "trainer/job/lease_record.h"
#include "trainer/job/lease_watch.h"

namespace olmoe {

/// A lease on a run folder, which keeps a second run out of it, on this host and on others that share its file system.
/// `folder`/run.lock names the holder, which renews it on a thread of its own. A dead holder is taken over, see
/// LeaseWatch; a leftover file without a living holder does not count. No lock of the file system is used.
class RunLease {
 public:
  /// Takes the lease. Throws ConfigError with the holder's host, process and start time where it lives; otherwise waits
  /// for up to `expiry`. CheckpointError where a dead one is to be taken over and the disk is full. A new file that
  /// cannot be filled for that is a warning: then ensure_held() throws until a renewal finds room.
  explicit RunLease(const std::string& folder, LeaseTimes times = {});
  /// The same from a watch of that file, which need not start again. `make_room`, if given, removes what the dead run
  /// left half-made; called where the disk is full, once it is known that nobody else uses the folder.
  explicit RunLease(LeaseWatch watch, const std::function<void()>& make_room = {});
  /// Ends the lease, and removes the file unless it is another run's.
  ~RunLease();
  RunLease(const RunLease&) = delete;
  RunLease& operator=(const RunLease&) = delete;

  /// Throws as the constructor does, and changes nothing. Returns what was seen, for the constructor.
  static LeaseWatch check_free(const std::string& folder, LeaseTimes times = {});

  /// To be called right before a checkpoint gets its name. Reads the file, and throws CheckpointError where it is
  /// another run's or gone, or was not renewed for LeaseTimes::trust(). Any thread.
  void ensure_held() const;
  /// Whether a renewal or ensure_held() found that the lease is another's: it stays so. Any thread.
  bool is_lost() const { return lost_; }

 private:
  void acquire(LeaseWatch& watch, const std::function<void()>& make_room);
  bool create();
  bool take_over(const LeaseWatch& dead, const std::function<void()>& make_room);
  int write(const FileDescriptor& file);
  bool is_written() const;
  bool is_mine(const std::optional<std::string>& text) const;
  std::string why_lost(const std::optional<std::string>& text) const;
  void release();
  void keep();
  void renew();

  std::string path_;
  LeaseTimes times_;
  LeaseRecord record_ = LeaseRecord::of_this_process();
  std::optional<FileDescriptor> file_;
  LeaseWatch claim_;  // of another one that takes over at the same time
  mutable std::atomic<bool> lost_ = false;
  std::atomic<int> write_error_ = 0;                                 // of the last renewal: errno
  std::atomic<std::chrono::steady_clock::time_point> renewed_at_{};  // the begin of time: never
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;  // last: it uses all others
};

}  // namespace olmoe
