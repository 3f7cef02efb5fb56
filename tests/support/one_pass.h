// One forward and backward of random weights, for tests that compare devices and dtypes.
#pragma once
#include "model/init.h"
#include "support/model_fixtures.h"
#include "trainer/config/config_choices.h"
#include "trainer/weights.h"

namespace olmoe::test {

/// Allowed relative() error of losses and gradients: of some forty consecutive roundings. Tests compare a CPU with
/// float64 by it; two sides that both round may differ by twice as much.
inline double error_of_pass(at::ScalarType dtype) {
  return dtype == at::kDouble ? 5e-12 : dtype == at::kFloat ? 1e-5 : 3.5e-2;
}

inline Batch random_batch(const ModelConfig& model) {
  at::manual_seed(3);
  return batch_of(at::randint(model.vocab_size, {3, 16}, at::kLong));
}

/// One forward and backward of random weights: losses and gradients, on the CPU.
struct Pass {
  at::Tensor losses_3, counts_LE;
  FlatParams grads;
};
inline StageRunner::Options gpu_options(at::ScalarType dtype, Residency residency, Recompute recompute) {
  auto options = runner_options(dtype, residency, recompute == Recompute::full);
  options.save_policy = recompute == Recompute::selective ? SavePolicy::selective : SavePolicy::all;
  return options;
}

inline Pass pass_of(const ModelConfig& model, const StageRunner::Options& options, kernels::ExpertKernels kernels,
                    const kernels::AttentionMethod& attention = {}) {
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  const MoeOptions moe{.device = options.device, .kernels = kernels};
  StageRunner runner(make_stages(model, mesh, moe, attention), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const auto batch = random_batch(model);
  runner.train_micro_batch(batch, loss_scale(batch.num_targets, /*aux_share=*/1.0, options.device));
  Pass out{runner.totals().losses_3.cpu(), runner.totals().counts_LE.cpu(), whole_params(runner, &ShardedUnit::grad)};
  for (auto& [name, grad] : out.grads) grad = grad.cpu();
  return out;
}
inline Pass pass_on(at::Device device, at::ScalarType dtype, Residency residency = Residency::resident,
                    Recompute recompute = Recompute::none) {
  auto model = gpu_model();
  if (dtype == at::kBFloat16)
    model.top_k = model.num_experts;  // a choice that falls the other way is no rounding error
  auto options = gpu_options(dtype, residency, recompute);
  options.device = device;
  return pass_of(model, options, kernels::ExpertKernels::unfused);
}

inline double relative(const at::Tensor& ours, const at::Tensor& reference) {
  const double scale = reference.abs().max().item<double>(), error = (ours - reference).abs().max().item<double>();
  return scale > 0 ? error / scale : error;
}

}  // namespace olmoe::test
