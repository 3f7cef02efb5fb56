// Runs whose peak of tensor bytes is held against the memory plan.
#pragma once
#include "support/trainer_fixtures.h"
#include "trainer/device/tensor_memory.h"

namespace olmoe::test {

/// A run in which no kind of memory is a rounding error: some megabytes each of state, buffers and activations. What
/// is not in the plan is one: oneDNN's scratch of a bf16 product, some 80 kB for one thread on a CPU without AMX.
inline Config measurable_run(const std::string& folder) {
  auto config = tiny_run(folder);
  auto& model = config.model;
  model.vocab_size = 600;
  model.d_model = 96;
  model.num_heads = 6;
  model.num_kv_heads = 3;
  model.num_experts = 6;
  model.top_k = 2;
  model.expert_width = 80;
  model.init_std = 0.02;
  model.loss_chunk = 100;
  config.train.steps = 2;
  config.data.sequence_length = 160;
  return config;
}

/// Peak of this rank in a run, without what was there before. Collective over world.
inline int64_t measured_peak(const Config& config, Communicator& world) {
  tensor_memory::count_host();
  const int64_t before = tensor_memory::bytes(at::kCPU).value();
  tensor_memory::reset_peak(at::kCPU);
  Trainer trainer(resolve_run(config, world.size()), world);
  ENSURE(trainer.run() == ExitCode::ok, "a run did not end well");
  return tensor_memory::peak_bytes(at::kCPU).value() - before;
}

}  // namespace olmoe::test
