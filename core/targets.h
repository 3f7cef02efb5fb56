#pragma once
#include <cstdint>

namespace olmoe {

/// A target of no token: the last position of a sequence. It has no loss.
constexpr int64_t kIgnoredTarget = -100;

}  // namespace olmoe
