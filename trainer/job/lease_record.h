#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/process/process_identity.h"

namespace olmoe {

/// What the file of a lease says: who holds the folder, and how often it was renewed since.
struct LeaseRecord {
  /// Of every record: a renewal rewrites the file in place, for which a full disk has room.
  static constexpr size_t kBytes = 512;

  ProcessIdentity holder;
  std::string since;  ///< local time of the holder, for people
  std::string token;  ///< of this lease and no other
  int64_t renewals = 0;
  std::string renewed;  ///< as since

  /// A record of this process with a new random token.
  static LeaseRecord of_this_process();
  /// None for a text that text() did not write.
  static std::optional<LeaseRecord> parse(std::string_view text);
  /// kBytes bytes, of which the first line is describe().
  std::string text() const;
  /// "process 4242 on node17, since 2026-11-29 12:31:40"
  std::string describe() const;
  /// Counts a renewal at this time.
  void renew();
};

/// The record in the file at `path`, as text; none where there is no file. Throws FileError where it cannot be read.
std::optional<std::string> read_lease(const std::string& path);

}  // namespace olmoe
