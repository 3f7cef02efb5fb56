#pragma once
#include <optional>
#include <string>
#include <vector>

#include "trainer/planner/roofline.h"

namespace olmoe {

/// A step with other expert kernels or as a CUDA graph, and otherwise of the config.
struct StepVariant {
  kernels::ExpertKernels expert_kernels;
  bool cuda_graph;
  std::optional<StepPrediction> step;  ///< none where a run would be refused
  std::string refused;                 ///< why
};

/// Unfused and fused, each without and with a graph, in this order; for a dense model, without experts, the first two.
/// Throws ConfigError where predict_step does.
std::vector<StepVariant> predict_variants(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu);

/// A line for each kind of expert kernels: "predicted with fused experts: 1.0 ms, 1 tokens/s per GPU; with a CUDA ...".
std::string describe_variants(const std::vector<StepVariant>& variants, bool has_experts);

}  // namespace olmoe
