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

/// The layout of a run on its ranks, which the planner chooses. All else is as in the config.
struct Layout {
  MeshShape mesh;
  int64_t zero_stage;
  Recompute recompute;
  bool operator==(const Layout& other) const;
};

/// A layout with its predictions, which no GPU has confirmed: see docs/parallelism.md.
struct PlannedLayout {
  Layout layout;
  MemoryPlan memory;  ///< of one rank
  bool fits;          ///< into kUsableMemory of the GPU's memory
  CollectiveBytes bytes;
  StepPrediction step;                ///< with the config's kernels
  std::vector<StepVariant> variants;  ///< with other expert kernels, and as a CUDA graph
};

/// Every valid layout of the config on `gpus`, each once, those of one mesh next to each other: replicate x shard =
/// gpus, expert divides shard and the experts, all ZeRO stages and modes of activation checkpointing. Throws
/// ConfigError where there is none, and for less than one or more than kMostGpus GPUs.
std::vector<Layout> list_layouts(const Config& config, int gpus);
/// The config with another layout.
Config with_layout(Config config, const Layout& layout);

/// All layouts of `gpus`: first those that fit, by time of a step, then by memory; then those that do not fit, by
/// memory. Runs and allocates nothing. Throws ConfigError where predict_step and list_layouts do.
std::vector<PlannedLayout> plan_layouts(const Config& config, int gpus, const GpuSpecs& gpu);

/// GPUs that have tokens; with fewer micro-batches than ranks the others are idle.
int64_t busy_ranks(const Config& config, int gpus);

}  // namespace olmoe
