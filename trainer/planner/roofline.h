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

/// A step's time on the busiest rank, from a model and not from a run: see docs/roofline.md.
struct StepPrediction {
  double tokens;                     ///< of that rank
  std::vector<PredictedPart> parts;  ///< computing, without gaps
  double compute_s;                  ///< their sum, with the gaps between kernels
  double transfer_s;                 ///< all collectives, one after the other
  double exposed_s;                  ///< what of them no computing hides; all where parallel.overlap is off
  double step_s;                     ///< compute_s + exposed_s
  double serial_step_s;              ///< without overlap: compute_s + transfer_s
  double token_per_s;                ///< of one GPU
  double mfu_causal, mfu_full;       ///< share of the GPU's dense bf16 peak
};

/// Throws ConfigError for another compute dtype than bfloat16, and another transport than NCCL.
StepPrediction predict_step(const Config& config, MeshShape mesh, const GpuSpecs& gpu);
/// The same, of several plans on one mesh; and with other kernels than a run has.
StepPrediction predict_step(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu,
                            const KernelForms& forms = {}, Outlook outlook = Outlook::expected);

/// The step with every assumption at its fast end, and with every one at its slow end.
struct StepRange {
  double fast_s, slow_s;
};
StepRange predict_range(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu,
                        const KernelForms& forms = {});

struct PartSeconds {
  double forward, backward, update;
};
PartSeconds part_seconds(const Work& part, const StepKernels& kernels, const GpuRates& rates);

/// The lines of a dry run: prediction on the GPU that is named, or, where none is and the config trains on GPUs, how to
/// name one. Throws ConfigError for a GPU that is not known.
std::string describe_speed(const Config& config, MeshShape mesh, const std::string& gpu);

}  // namespace olmoe
