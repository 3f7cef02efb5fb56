#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/device/gpu_specs.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// Bytes of tensors of one rank by kind, at its peak, from the config alone: nothing is
/// allocated. The rank is one with a whole micro-batch, its device the config's: of so many multiprocessors, if a GPU.
/// docs/memory.md states the formulas, and what is no tensor: threads, libraries, buffers of communication.
struct MemoryPlan {
  int64_t weights;           ///< trained copy, this rank's slices
  int64_t gradients;         ///< reduced, this rank's slices
  int64_t moments;           ///< both of AdamW and Muon's momentum, without what is frozen; of the rank with most
  int64_t gathered_weights;  ///< buffers that stages compute from
  int64_t full_gradients;    ///< buffers that backward adds into
  int64_t reduce_buffer;    ///< gradients of a unit while they are reduced, where they are sent in a dtype of their own
  int64_t batches;          ///< token ids and targets, those prepared ahead too
  int64_t tables;           ///< rotary angles
  int64_t activations;      ///< saved from forward to backward
  int64_t temporaries;      ///< of the stage at work
  int64_t checkpoint_copy;  ///< what an asynchronous save writes, in host memory: on a GPU not part of the total
  bool on_gpu;
  std::string_view peak;  ///< the point of a step at which all of it together takes most

  struct Kind {
    std::string_view name;
    int64_t size_bytes;
  };
  /// Every kind that the device holds, in the order above.
  std::vector<Kind> kinds() const;
  int64_t total() const;
};
MemoryPlan plan_memory(const Config& config, MeshShape mesh, int multiprocessors = kUsualMultiprocessors);
/// The same, of several plans on one mesh.
MemoryPlan plan_memory(const Config& config, const ModelOnMesh& model, int multiprocessors = kUsualMultiprocessors);
/// The plan as a line for people.
std::string describe(const MemoryPlan& plan);

}  // namespace olmoe
