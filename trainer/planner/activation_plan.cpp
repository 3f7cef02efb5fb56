#include "trainer/planner/activation_plan.h"

#include <algorithm>

#include "trainer/planner/collective_bytes.h"

namespace olmoe {

CostContext cost_context(const Config& config, MeshShape mesh, int64_t sequences, int multiprocessors) {
  const auto& train = config.train;
  return {.sequences = sequences,
          .positions = config.data.sequence_length,
          .multiprocessors = multiprocessors,
          .value_bytes = compute_bytes(config),
          .master_bytes = master_bytes(config),
          .save_policy = train.recompute == Recompute::selective ? SavePolicy::selective : SavePolicy::all,
          .on_gpu = train.device == DeviceKind::cuda,
          .expert_ranks = mesh.expert,
          .expert_chunks = config.parallel.expert_chunks,
          .expert_kernels = train.expert_kernels,
          .attention_kernel = train.attention_kernel,
          .deterministic_attention = train.deterministic_attention,
          .documents = config.data.document_mask != DocumentMask::none};
}

PeakActivations peak_activations(const Config& config, const ModelOnMesh& model, int multiprocessors) {
  const int64_t sequences = std::min(config.train.micro_batch_size, config.train.global_batch_size);
  const auto context = cost_context(config, model.mesh, sequences, multiprocessors);
  const bool full = config.train.recompute == Recompute::full;
  int64_t saved = 0;  // by the stages before the one at work, and the outputs of both: later ones are freed by then
  PeakActivations peak{};
  for (const auto& stage : model.outline->stages()) {
    const auto cost = stage->cost(context);
    saved += cost.output;
    for (const auto& point : cost.peaks) {
      const PeakActivations here{point.name, saved + point.saved, point.temporaries};
      if (here.total() >= peak.total()) peak = here;
    }
    saved += full ? cost.routing : cost.saved;
  }
  return peak;
}

}  // namespace olmoe
