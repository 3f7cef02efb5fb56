#pragma once
#include <cstdint>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/planner/collective_bytes.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/planner/roofline.h"
#include "trainer/planner/step_variants.h"

namespace olmoe {

/// GPUs of the largest cluster that is planned for.
constexpr int kMostGpus = 4096;

/// How a run lies on its ranks: what the planner chooses. All else is as the config says.
struct Layout {
  MeshShape mesh;
  int64_t zero_stage;
  Recompute recompute;
  bool operator==(const Layout& other) const;
};

/// A layout and what is predicted of it. No GPU has run it: see docs/parallelism.md.
struct PlannedLayout {
  Layout layout;
  MemoryPlan memory;  ///< of one rank
  bool fits;          ///< into the share of the GPU's memory that tensors may take
  CollectiveBytes bytes;
  StepPrediction step;                ///< as the config says
  std::vector<StepVariant> variants;  ///< with other expert kernels, and as a CUDA graph
};

/// Every layout of a world of `gpus` that a run takes, each once, those of one mesh side by side: replicate x shard =
/// gpus, expert divides shard and the experts, all ZeRO stages and modes of recompute, but none with which the config
/// is not valid. Throws ConfigError where none is left, and for less than one or more than kMostGpus GPUs.
std::vector<Layout> list_layouts(const Config& config, int gpus);
/// The config with a layout in place of its own.
Config with_layout(Config config, const Layout& layout);

/// All layouts of `gpus`, those that fit first, of these the one with the shortest step first (at equal times the one
/// that takes less memory); of those that do not fit, the smallest first. Nothing is run or allocated. Throws
/// ConfigError where predict_step and list_layouts do.
std::vector<PlannedLayout> plan_layouts(const Config& config, int gpus, const GpuSpecs& gpu);

/// GPUs that have tokens: with fewer micro-batches than ranks, the others idle.
int64_t busy_ranks(const Config& config, int gpus);

}  // namespace olmoe
