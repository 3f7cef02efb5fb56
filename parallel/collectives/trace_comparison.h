#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/collectives/call_trace.h"

namespace olmoe {

/// What a rank writes for the others to read: its identity and its last calls.
struct RankTrace {
  int rank = 0;
  std::string host;  ///< without spaces
  int64_t pid = 0;
  int64_t beat = 0;               ///< grows with each write: shows a reader that the rank is alive
  std::vector<TracedCall> calls;  ///< oldest first

  /// As it is written to a file.
  std::string text() const;
  /// Reads what text() wrote; none for any other text, such as an incomplete one.
  static std::optional<RankTrace> parse(const std::string& text);
};

/// A rank whose trace no longer changes, and the last one that it wrote, if any.
struct SilentRank {
  int rank;
  std::optional<RankTrace> last;
};

/// A report: which ranks are at which call, one line for each call, the least advanced ranks first; then the first call
/// that differs between ranks, if there is one; then which ranks to look at first.
std::string compare_traces(const std::vector<RankTrace>& ranks, const std::vector<SilentRank>& silent);

/// {0, 1, 2, 5} -> "ranks 0-2, 5"; {3} -> "rank 3". `ranks` are ascending.
std::string rank_list(const std::vector<int>& ranks);

}  // namespace olmoe
