#include "trainer/run_options.h"

#include <algorithm>

#include "core/error.h"

namespace olmoe {
namespace {

at::ScalarType scalar_type(ComputeDtype dtype) {
  switch (dtype) {
    case ComputeDtype::float32:
      return at::kFloat;
    case ComputeDtype::bfloat16:
      return at::kBFloat16;
    case ComputeDtype::float64:
      return at::kDouble;
  }
  throw Error("unreachable compute dtype");
}

Overlap overlap_of(const Config& config) { return config.parallel.overlap ? Overlap::yes : Overlap::no; }

std::optional<at::ScalarType> reduce_dtype(ReduceDtype dtype) {
  return dtype == ReduceDtype::bfloat16 ? std::optional(at::kBFloat16) : std::nullopt;
}

}  // namespace

StageRunner::Options runner_options(const ResolvedRun& run) {
  const auto& config = run.config;
  return {.compute_dtype = scalar_type(config.train.compute_dtype),
          .device = run.device,
          .residency = config.parallel.zero_stage == 3 ? Residency::pooled : Residency::resident,
          .recompute = config.train.recompute == Recompute::full,
          .registered_memory = config.parallel.registered_memory,
          .overlap = config.parallel.overlap,
          .grads = config.parallel.zero_stage == 1 ? Residency::resident : Residency::pooled,
          .reduce_dtype = reduce_dtype(config.parallel.reduce_dtype),
          .save_policy = config.train.recompute == Recompute::selective ? SavePolicy::selective : SavePolicy::all};
}

MoeOptions moe_options(const ResolvedRun& run) {
  const auto& config = run.config;
  return {run.device, overlap_of(config), config.parallel.expert_chunks, config.train.expert_kernels};
}

DataLoader::Plan loader_plan(const ResolvedRun& run, const Communicator& world) {
  // A step takes the batches of all accumulation steps at its start.
  return {run.batches, world.rank(), std::max(run.config.data.prefetch, run.batches.accumulation_steps()),
          run.config.train.batch_size_warmup};
}

std::unique_ptr<DeviceGraph> device_graph(const ResolvedRun& run) {
  return run.config.train.cuda_graph ? cuda::make_device_graph(run.device) : nullptr;
}

}  // namespace olmoe
