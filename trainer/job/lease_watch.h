#pragma once
#include <chrono>
#include <optional>
#include <string>

#include "trainer/job/lease_record.h"

namespace olmoe {

/// Periods of a lease. Those of a holder and of one that waits for it must be the same.
struct LeaseTimes {
  std::chrono::milliseconds renewal = std::chrono::seconds(10);
  std::chrono::milliseconds expiry = std::chrono::seconds(60);   ///< without a renewal the holder counts as dead
  std::chrono::milliseconds settling = std::chrono::seconds(1);  ///< after a takeover, until it is looked at again

  /// How long its holder relies on a lease after a renewal: it gives up before another one takes over.
  std::chrono::milliseconds trust() const { return expiry - renewal; }
};

/// The file of the lease on a run folder.
std::string lease_path(const std::string& folder);

/// Judges the lease in a file from outside. A holder that this host's kernel knows is looked up. Of one on another
/// host, in another container, or that is just ending, only renewals tell: one that is seen means that it lives, and
/// `expiry` without any, by the clock of the one who watches, that it is dead. Clocks of hosts are not compared.
class LeaseWatch {
 public:
  explicit LeaseWatch(std::string path, LeaseTimes times = {});

  enum class Verdict { free, living, dead, unsure };
  /// Reads the file once more. Throws FileError where that fails.
  Verdict look();
  /// Looks until the verdict is another than unsure, for `expiry` at most; says in the log that it waits.
  Verdict wait();
  /// Waits too. Throws ConfigError with process, host and start time of a holder that lives. Changes nothing.
  void check_free();
  /// Throws the ConfigError of check_free().
  [[noreturn]] void refuse() const;

  const std::string& path() const { return path_; }
  const LeaseTimes& times() const { return times_; }
  /// What look() read last.
  const std::optional<std::string>& text() const { return text_; }
  /// "process 4242 on node17, since 2026-11-29 12:31:40"
  std::string holder() const;
  /// Why look() found it dead: "has ended", or "did not renew it for 60 s".
  std::string reason() const;
  /// Sleeps between two looks.
  void pause() const;

 private:
  Verdict judge(const std::optional<std::string>& before);
  std::chrono::milliseconds unchanged() const;

  std::string path_;
  LeaseTimes times_;
  std::optional<std::string> text_;
  std::optional<LeaseRecord> record_;                 // none: no file, or not of this program
  std::chrono::steady_clock::time_point same_since_;  // text_ was first read
  bool said_ = false;                                 // that it waits
};

}  // namespace olmoe
