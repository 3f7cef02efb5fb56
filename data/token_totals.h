#pragma once
#include <cstdint>

namespace olmoe {

/// What a list of token files holds, and how much of it whole sequences use. An epoch is
/// used_tokens long.
struct TokenTotals {
  int64_t files = 0;
  int64_t tokens = 0;       ///< of all files
  int64_t used_tokens = 0;  ///< in whole sequences; the tail of every file is left out
  int64_t short_files = 0;  ///< files with less than one sequence, of which nothing is used
};

}  // namespace olmoe
