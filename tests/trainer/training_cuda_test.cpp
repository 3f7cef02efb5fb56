// The model on a GPU beside the CPU, and what a step on a GPU promises: it never waits for the host, and gives the same bits
// each time. Tagged [cuda]; without a GPU these fail.
#include "kernels/cuda_device.h"
#include "model/init.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Widths that ATen's grouped GEMM takes in bf16: rows of whole 16 bytes.
ModelConfig gpu_model() {
  auto model = tiny_model();
  model.d_model = 128;
  model.expert_width = 64;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.init_std = 0.05;
  return model;
}

Batch random_batch(const ModelConfig& model) {
  at::manual_seed(3);
  return batch_of(at::randint(model.vocab_size, {3, 16}, at::kLong));
}

/// One forward and backward of random weights: losses and gradients, on the CPU.
struct Pass {
  at::Tensor losses_3, counts_LE;
  FlatParams grads;
};
Pass pass_of(const ModelConfig& model, const StageRunner::Options& options, kernels::ExpertKernels kernels) {
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, kernels), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const auto batch = random_batch(model);
  runner.train_pass(batch, {1.0 / static_cast<double>(batch.num_targets), 1.0});
  Pass out{runner.totals().losses_3.cpu(), runner.totals().counts_LE.cpu(), whole_params(runner, &ShardedUnit::grad)};
  for (auto& [name, grad] : out.grads) grad = grad.cpu();
  return out;
}
Pass pass_on(at::Device device, at::ScalarType dtype, Residency residency = Residency::resident, bool recompute = false) {
  auto model = gpu_model();
  if (dtype == at::kBFloat16) model.top_k = model.num_experts;  // a choice that falls the other way is no rounding error
  auto options = runner_options(model, dtype, residency, recompute);
  options.device = device;
  return pass_of(model, options, kernels::ExpertKernels::unfused);
}

double relative(const at::Tensor& ours, const at::Tensor& reference) {
  const double scale = reference.abs().max().item<double>(), error = (ours - reference).abs().max().item<double>();
  return scale > 0 ? error / scale : error;
}

}  // namespace

TEST_CASE("GPU: losses and every gradient are those of the CPU", "[cuda]") {
  const auto [dtype, tolerance] = GENERATE(table<at::ScalarType, double>(
      {{at::kDouble, 1e-11}, {at::kFloat, 2e-5}, {at::kBFloat16, 6e-2}}));  // bf16: some forty roundings of 2^-8 in a row
  const bool recompute = GENERATE(false, true);
  CAPTURE(dtype, recompute);
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto cpu = pass_on(at::kCPU, dtype), gpu = pass_on(at::Device(at::kCUDA, 0), dtype, residency, recompute);
  CHECK(relative(gpu.losses_3, cpu.losses_3) <= tolerance);
  CHECK(at::equal(gpu.counts_LE, cpu.counts_LE));
  for (const auto& [name, grad] : cpu.grads) {
    INFO(name);
    CHECK(relative(gpu.grads.at(name), grad) <= tolerance);
  }
}

TEST_CASE("GPU: fused experts give the losses and gradients of the unfused", "[cuda]") {
  auto model = gpu_model();
  model.expert_width = 256;
  model.top_k = model.num_experts;
  auto options = runner_options(model, at::kBFloat16, Residency::resident, GENERATE(false, true));
  options.device = at::Device(at::kCUDA, 0);
  const auto unfused = pass_of(model, options, kernels::ExpertKernels::unfused);
  const auto fused = pass_of(model, options, kernels::ExpertKernels::fused);
  const auto again = pass_of(model, options, kernels::ExpertKernels::fused);
  CHECK(relative(fused.losses_3, unfused.losses_3) <= 6e-2);  // as of the CPU, above
  for (const auto& [name, grad] : unfused.grads) {
    INFO(name);
    CHECK(relative(fused.grads.at(name), grad) <= 6e-2);
    CHECK(at::equal(fused.grads.at(name), again.grads.at(name)));
  }
}

TEST_CASE("GPU: a pass gives the same bits each time", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const at::Device device(at::kCUDA, 0);
  const auto first = pass_on(device, dtype), second = pass_on(device, dtype);
  CHECK(at::equal(first.losses_3, second.losses_3));
  for (const auto& [name, grad] : first.grads) {
    INFO(name);
    CHECK(at::equal(grad, second.grads.at(name)));
  }
}

TEST_CASE("GPU: forward, backward and update never wait for the host", "[cuda]") {
  const bool recompute = GENERATE(false, true);
  const auto model = gpu_model();
  auto options = runner_options(model, at::kBFloat16, GENERATE(Residency::pooled, Residency::resident), recompute);
  options.device = at::Device(at::kCUDA, 0);
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const OptimizerConfig config;
  Optimizer optimizer(runner.units(), config);
  const auto batch = random_batch(model);
  const LossScale scale{1.0 / static_cast<double>(batch.num_targets), 1.0};
  runner.train_pass(batch, scale);  // the first one makes tables and handles
  const kernels::cuda::NoHostSync no_sync;
  for (int64_t step = 1; step <= 2; ++step) {
    runner.reset_totals();
    runner.train_pass(batch, scale);
    runner.train_pass(batch_of(batch.ids_BS.narrow(0, 0, 0)), scale);  // a round in which this rank has nothing
    optimizer.step(step, 1e-3, optimizer.grad_norm(mesh.shard()));
  }
  CHECK_THROWS(runner.totals().losses_3.cpu());  // what the guard is there to see
}
