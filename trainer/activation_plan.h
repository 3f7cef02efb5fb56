#pragma once
#include <cstdint>
#include <string_view>

#include "trainer/config.h"

namespace olmoe {

/// One moment of a micro-batch on one rank, in bytes.
struct Moment {
  std::string_view name;
  int64_t kept;         ///< by stages that wait for their backward
  int64_t temporaries;  ///< of the stage at work
  int64_t total() const { return kept + temporaries; }
};

/// The moment of a pass in which activations take most, from the config alone. Counts what the kernels of kernels/X.cpp
/// allocate as tensors, with experts in balance; docs/memory.md states the formulas.
Moment fullest_moment(const Config& config, MeshShape mesh);

}  // namespace olmoe
