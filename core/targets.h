#pragma once
#include <cstdint>

namespace olmoe {

/// The target of a position without loss: the last one of a sequence.
constexpr int64_t kIgnoredTarget = -100;

}  // namespace olmoe
