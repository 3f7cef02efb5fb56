#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "core/process/process_identity.h"
#include "core/reader/config_reader.h"

namespace olmoe {

/// How far a checkpoint is on its way to another place.
enum class SendState {
  waiting,   ///< to be sent, or being sent
  sent,      ///< checkpoint.after_save ended with 0
  verified,  ///< and so did checkpoint.verify_copy
  failed,    ///< all tries are over
};

template <>
struct EnumNames<SendState> {
  static constexpr std::array names{"waiting", "sent", "verified", "failed"};
};

struct SendRecord {
  std::string manifest_hash = {};  ///< names the checkpoint: a step may be saved again
  SendState state = SendState::waiting;
  int64_t tries = 0;
  std::string last_end = {};  ///< of its last command: "after_save: exit code 3"; empty: none has ended
  double seconds = 0;         ///< that command took
  std::string changed = {};   ///< when this record last did, UTC
};

/// What is known of the checkpoints that a run sent or is to send, as `run.folder`/after_save.json keeps it.
struct SendRecords {
  std::map<int64_t, SendRecord> steps;
  std::optional<ProcessIdentity> running;  ///< the command of now: it leads a process group

  /// Empty where the file does not exist, or is damaged; then it is renamed to `path`.damaged-1 and a warning says so.
  /// Throws FileError where it cannot be read.
  static SendRecords read(const std::string& path);
  /// Replaces the file atomically. Throws FileError.
  void write(const std::string& path) const;
};

/// "2026-01-31T09:05:00Z"
std::string utc_now();

}  // namespace olmoe
