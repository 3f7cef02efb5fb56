#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/collectives/call_trace.h"

namespace olmoe {

/// What a rank leaves for the others to read: who it is, and its last calls.
struct RankTrace {
  int rank = 0;
  std::string host;  ///< without spaces
  int64_t pid = 0;
  int64_t beat = 0;               ///< grows with each writing: a reader sees by it that the rank lives
  std::vector<TracedCall> calls;  ///< oldest first

  std::string text() const;
  /// Reads what text() wrote; nothing from any other text, such as the half of one.
  static std::optional<RankTrace> parse(const std::string& text);
};

/// A rank whose trace no longer changes. It may have left none.
struct SilentRank {
  int rank;
  std::optional<RankTrace> last;
};

/// Says who is at which call, ranks that are at the same one in one line, those that have come least far first; then
/// the first call that is not the same on all ranks, where there is one; then where to look first.
std::string compare_traces(const std::vector<RankTrace>& ranks, const std::vector<SilentRank>& silent);

/// {0, 1, 2, 5} -> "ranks 0-2, 5"; {3} -> "rank 3". Ascending.
std::string rank_list(const std::vector<int>& ranks);

}  // namespace olmoe
