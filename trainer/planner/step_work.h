#pragma once
#include <vector>

#include "model/cost.h"
#include "trainer/planner/kernel_forms.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// The kernels that a step's work is timed with.
struct StepKernels {
  AttentionForm attention;
  const ExpertForm* experts;
};

/// The work of the busiest rank, summed over a step.
struct StepWork {
  double tokens;         ///< of the busiest rank
  double global_tokens;  ///< of all ranks
  StepKernels kernels;
  std::vector<Work> parts;
};

/// Adds up the FLOPs and bytes of one optimizer step on CUDA kernels, from the config alone: what the stages state of
/// each micro-batch, and what is done to weights and gradients. The busiest rank is the one with the most
/// micro-batches; its experts have as many rows as those of any other.
StepWork count_step_work(const Config& config, const ModelOnMesh& model, const KernelForms& forms = {});

}  // namespace olmoe
