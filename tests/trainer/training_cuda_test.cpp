// The model on a GPU beside the CPU, and what a step on a GPU promises: it never waits for the host, and gives the same bits
// each time. Tagged [cuda]; without a GPU these fail.
#include "kernels/cuda_device.h"
#include "model/init.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/memory_plan.h"
#include "trainer/tensor_memory.h"
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
StageRunner::Options gpu_options(const ModelConfig& model, at::ScalarType dtype, Residency residency, Recompute recompute) {
  auto options = runner_options(model, dtype, residency, recompute == Recompute::full);
  options.keep = recompute == Recompute::selective ? Keep::least : Keep::all;
  return options;
}

Pass pass_on(at::Device device, at::ScalarType dtype, Residency residency = Residency::resident,
             Recompute recompute = Recompute::none) {
  auto model = gpu_model();
  if (dtype == at::kBFloat16) model.top_k = model.num_experts;  // a choice that falls the other way is no rounding error
  auto options = gpu_options(model, dtype, residency, recompute);
  options.device = device;
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const auto batch = random_batch(model);
  runner.train_pass(batch, {1.0 / static_cast<double>(batch.num_targets), 1.0});
  Pass out{runner.totals().losses_3.cpu(), runner.totals().counts_LE.cpu(), whole_params(runner, &ShardedUnit::grad)};
  for (auto& [name, grad] : out.grads) grad = grad.cpu();
  return out;
}

double relative(const at::Tensor& ours, const at::Tensor& reference) {
  const double scale = reference.abs().max().item<double>(), error = (ours - reference).abs().max().item<double>();
  return scale > 0 ? error / scale : error;
}

}  // namespace

TEST_CASE("GPU: losses and every gradient are those of the CPU", "[cuda]") {
  const auto [dtype, tolerance] = GENERATE(table<at::ScalarType, double>(
      {{at::kDouble, 1e-11}, {at::kFloat, 2e-5}, {at::kBFloat16, 6e-2}}));  // bf16: some forty roundings of 2^-8 in a row
  const auto recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  CAPTURE(dtype, enum_name(recompute));
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto cpu = pass_on(at::kCPU, dtype), gpu = pass_on(at::Device(at::kCUDA, 0), dtype, residency, recompute);
  CHECK(relative(gpu.losses_3, cpu.losses_3) <= tolerance);
  CHECK(at::equal(gpu.counts_LE, cpu.counts_LE));
  for (const auto& [name, grad] : cpu.grads) {
    INFO(name);
    CHECK(relative(gpu.grads.at(name), grad) <= tolerance);
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

TEST_CASE("GPU: what a pass takes is the memory plan's, within 5 %", "[cuda]") {
  auto config = tiny_run("unused");
  config.model = gpu_model();
  config.model.d_model = 256;
  config.model.expert_width = 256;
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.train.recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  config.data.sequence_length = 2048;
  CAPTURE(enum_name(config.train.recompute));
  const at::Device device(at::kCUDA, 0);
  auto options = gpu_options(config.model, at::kBFloat16, Residency::resident, config.train.recompute);
  options.device = device;
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(config.model), mesh, options);
  fill_weights(runner.units(), random_init(config.model, 7));
  const auto batch = batch_of(at::randint(config.model.vocab_size, {config.train.micro_batch_size, 2048}, at::kLong));
  const LossScale scale{1.0 / static_cast<double>(batch.num_targets), 1.0};
  runner.train_pass(batch, scale);  // the first one makes tables, handles and the libraries' workspaces
  const int64_t before = tensor_memory::bytes(device).value();
  tensor_memory::forget_peak(device);
  runner.train_pass(batch, scale);
  const auto plan = plan_memory(config, {});
  INFO(describe(plan));
  CHECK(static_cast<double>(plan.batches + plan.activations + plan.temporaries) ==
        Approx(static_cast<double>(tensor_memory::peak_bytes(device).value() - before)).epsilon(0.05));
}

TEST_CASE("GPU: selective recompute changes no bit", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const at::Device device(at::kCUDA, 0);
  const auto kept = pass_on(device, dtype), again = pass_on(device, dtype, Residency::resident, Recompute::selective);
  CHECK(at::equal(kept.losses_3, again.losses_3));
  for (const auto& [name, grad] : kept.grads) {
    INFO(name);
    CHECK(at::equal(grad, again.grads.at(name)));
  }
}

TEST_CASE("GPU: forward, backward and update never wait for the host", "[cuda]") {
  const auto recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  const auto model = gpu_model();
  auto options = gpu_options(model, at::kBFloat16, GENERATE(Residency::pooled, Residency::resident), recompute);
  options.device = at::Device(at::kCUDA, 0);
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh), mesh, options);
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
