#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "trainer/device/gpu_specs.h"
#include "trainer/planner/gpu_rates.h"
#include "trainer/planner/step_work.h"

namespace olmoe {

struct PredictedPart {
  std::string_view name;
  double seconds;
};

/// A step's time on the busiest rank, predicted by the model in docs/roofline.md, not measured.
struct StepPrediction {
  double tokens;                     ///< of that rank
  std::vector<PredictedPart> parts;  ///< computation, without gaps
  double compute_s;                  ///< their sum, with the gaps between kernels
  double transfer_s;                 ///< all collectives, one after the other
  double exposed_s;                  ///< of these, what computation does not overlap; all without parallel.overlap
  double step_s;                     ///< compute_s + exposed_s
  double serial_step_s;              ///< without overlap: compute_s + transfer_s
  double token_per_s;                ///< of one GPU
  double mfu_causal, mfu_full;       ///< share of the GPU's dense bf16 peak
};

/// Predicts an optimizer step of `config` on `mesh` of GPUs. Throws ConfigError unless the compute dtype is bfloat16
/// and the transport NCCL.
StepPrediction predict_step(const Config& config, MeshShape mesh, const GpuSpecs& gpu);
/// The same for several plans on one mesh, also with other kernels than a run has.
StepPrediction predict_step(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu,
                            const KernelForms& forms = {}, Outlook outlook = Outlook::expected);

/// A step's time with all assumptions at their fast end, and at their slow end.
struct StepRange {
  double fast_s, slow_s;
};
StepRange predict_range(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu,
                        const KernelForms& forms = {});

struct PartSeconds {
  double forward, backward, update;
};
PartSeconds part_seconds(const Work& part, const StepKernels& kernels, const GpuRates& rates);

/// The lines of a dry run: the prediction for `gpu`, or, without a name and for a config that trains on GPUs, how to
/// name one. Throws ConfigError for an unknown GPU.
std::string describe_speed(const Config& config, MeshShape mesh, const std::string& gpu);

}  // namespace olmoe
