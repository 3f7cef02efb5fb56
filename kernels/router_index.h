// Which tokens a block of threads routes: runs of tokens within groups of `group_size` consecutive tokens.
#pragma once
#include <c10/macros/Macros.h>

#include <algorithm>
#include <cstdint>

#include "core/integers.h"

namespace olmoe::kernels {

/// Consecutive tokens [begin, end) of one group.
struct TokenRun {
  int64_t group, begin, end;
};
/// Maximum length of a run: small enough that the runs of a micro-batch fill a GPU.
constexpr int64_t kTokensPerRun = 32;

C10_HOST_DEVICE inline int64_t runs_per_group(int64_t group_size) { return ceil_div(group_size, kTokensPerRun); }
/// Run `run` of all groups' runs. A run lies within one group, so a block needs one histogram.
C10_HOST_DEVICE inline TokenRun token_run(int64_t run, int64_t group_size) {
  const int64_t group = run / runs_per_group(group_size), group_begin = group * group_size;
  const int64_t begin = group_begin + run % runs_per_group(group_size) * kTokensPerRun;
  return {group, begin, std::min(begin + kTokensPerRun, group_begin + group_size)};
}

}  // namespace olmoe::kernels
