#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "trainer/config.h"

namespace olmoe {

/// Bytes of one rank by kind, from the config alone: nothing is allocated.
struct MemoryPlan {
  int64_t weights;           ///< trained copy, this rank's slices
  int64_t gradients;         ///< reduced, this rank's slices
  int64_t moments;           ///< both of AdamW
  int64_t gathered_weights;  ///< buffers that stages compute from
  int64_t full_gradients;    ///< buffers that backward adds into
  int64_t activations;       ///< kept from forward to backward, with the head's chunk of logits; an estimate
  struct Kind {
    std::string_view name;
    int64_t size_bytes;
  };
  /// Every kind, in the order above.
  std::vector<Kind> kinds() const;
  int64_t total() const { return weights + gradients + moments + gathered_weights + full_gradients + activations; }
};
MemoryPlan plan_memory(const Config& config, MeshShape mesh);
/// The plan as a line for people, in MiB or GiB.
std::string describe(const MemoryPlan& plan);

}  // namespace olmoe
