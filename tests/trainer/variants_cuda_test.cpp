// Variants of routing, experts, blocks, attention and Muon on a GPU compared with the CPU, and captured steps with
// eager ones. Tagged [cuda]; without a GPU these fail.
#include "data/data_loader.h"
#include "support/attention_variants.h"
#include "support/block_variants.h"
#include "support/one_pass.h"
#include "support/oracle_check.h"
#include "support/routing_variants.h"
#include "trainer/device/cuda_graph.h"
#include "trainer/device_step.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

const at::Device kGpu(at::kCUDA, 0);

/// With losses of routers as large as the cross-entropy: an error in them shows.
ModelConfig strong_gpu_model() {
  auto model = gpu_model();
  model.load_balancing_weight = 0.7;
  model.router_z_weight = 0.3;
  return model;
}

/// Losses and gradients of a step, and the routers' buffers after it, on the CPU.
struct StepOutcome {
  at::Tensor losses_3, counts_LE, dropped_1;
  FlatParams grads, buffers;
};
StepOutcome outcome_on(at::Device device, const ModelConfig& model, at::ScalarType dtype, const Batch& batch) {
  auto options = runner_options(dtype, Residency::resident);
  options.device = device;
  OneRank rank(model, options, [](Stages stages) { return stages; });
  rank.uneven_buffers();
  rank.runner.begin_step(std::span(&batch, 1), *rank.world);
  rank.runner.train_micro_batch(batch, loss_scale(batch.num_targets, /*aux_share=*/1.0, device));
  const auto totals = rank.runner.take_totals();
  rank.runner.end_step(totals, at::ones({}, at::device(device).dtype(at::kBool)));
  StepOutcome out{totals.losses_3.cpu(),
                  totals.counts_LE.cpu(),
                  totals.dropped_1.cpu(),
                  whole_params(rank.runner, &ShardedUnit::grad),
                  {}};
  for (auto& [name, grad] : out.grads) grad = grad.cpu();
  for (const auto& buffer : rank.runner.buffers()) out.buffers[buffer.slices.front().name] = buffer.flat.cpu();
  return out;
}

void check_gpu_against_cpu(const ModelConfig& model, at::ScalarType dtype, const Batch& batch) {
  const auto cpu = outcome_on(at::kCPU, model, dtype, batch), gpu = outcome_on(kGpu, model, dtype, batch);
  const double tolerance = 2 * error_of_pass(dtype);  // both sides round
  CHECK(relative(gpu.losses_3, cpu.losses_3) <= tolerance);
  CHECK(at::equal(gpu.counts_LE, cpu.counts_LE));
  CHECK(at::equal(gpu.dropped_1, cpu.dropped_1));
  for (const auto& [name, grad] : cpu.grads) {
    INFO(name);
    CHECK(relative(gpu.grads.at(name), grad) <= tolerance);
  }
  for (const auto& [name, buffer] : cpu.buffers) {
    INFO(name);
    CHECK(relative(gpu.buffers.at(name), buffer) <= tolerance);
  }
}

/// What some steps leave behind: the numbers of the last one and the whole state.
std::vector<at::Tensor> trained_on(at::Device device, const ModelConfig& model, at::ScalarType dtype,
                                   const OptimizerConfig& config, bool graph = false) {
  constexpr int64_t kSteps = 5, kLength = 16;
  auto options = runner_options(dtype, Residency::resident);
  options.device = device;
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh, {.device = device}), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  Optimizer optimizer(runner.units(), config);
  const std::shared_ptr<const SequenceSource> source = make_synthetic_source(kLength, model.vocab_size, 5);
  const DataLoader::Plan plan{{/*global_batch=*/5, /*micro_batch=*/2, /*ranks=*/1}, 0, 2};
  DeviceStep step(runner, optimizer, mesh, plan.batches, graph ? cuda::make_device_graph(device) : nullptr);
  DataLoader loader(source, plan, 0);
  at::Tensor numbers;
  for (int64_t s = 1; s <= kSteps; ++s) numbers = step.run([&] { return loader.next(); }, s, 1e-2).packed().cpu();
  std::vector<at::Tensor> out{numbers};
  for (const auto& state : saved_state(optimizer, runner)) out.push_back(state.flat.cpu());
  return out;
}

/// An expert's limits are those of a micro-batch.
const std::vector<RoutingVariant> kCapacities{
    {"capacity by position", [](auto& m) { m.capacity_factor = 0.8; }},
    {"capacity by score",
     [](auto& m) {
       m.capacity_factor = 0.8;
       m.capacity_order = CapacityOrder::score;
     }},
};

bool can_be_captured(const ModelConfig& model) { return !model.experts_choose() && !model.capacity_factor; }

}  // namespace

TEST_CASE("GPU: variants of routing give the CPU's losses, gradients and buffers", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kDouble);
  auto variants = routing_variants();
  variants.insert(variants.end(), kCapacities.begin(), kCapacities.end());
  for (const auto& variant : variants) {
    INFO(variant.name << " in " << dtype);
    const auto model = with(variant, strong_gpu_model());
    check_gpu_against_cpu(model, dtype, random_batch(model));
  }
}

TEST_CASE("GPU: variants of the block give the CPU's losses and gradients", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kDouble);
  for (const auto& variant : block_variants()) {
    INFO(variant.name << " in " << dtype);
    auto model = strong_gpu_model();
    variant.change(model);
    check_gpu_against_cpu(model, dtype, random_batch(model));
  }
}

TEST_CASE("GPU: variants of attention, windows and documents too, give the CPU's losses and gradients", "[cuda]") {
  const auto dtype = GENERATE(at::kBFloat16, at::kFloat, at::kDouble);
  for (const auto& variant : attention_variants()) {
    INFO(variant.name << " in " << dtype);
    auto model = with(variant, gpu_model());
    const bool hides_keys = variant.documents || !model.attention_windows.empty();
    if (dtype == at::kFloat && hides_keys) continue;              // refused: gpu_limits.cpp
    if (dtype == at::kBFloat16) model.top_k = model.num_experts;  // another choice is no rounding error
    check_gpu_against_cpu(model, dtype, as_in(variant, random_batch(model)));
  }
}

TEST_CASE("GPU: variants of the optimizer: steps of Muon leave the CPU's weights and momenta", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kDouble);
  const auto qkv = GENERATE(QkvMatrices::split, QkvMatrices::fused, QkvMatrices::heads);
  CAPTURE(dtype, enum_name(qkv));
  OptimizerConfig config;
  config.kind = OptimizerKind::muon;
  config.muon.qkv = qkv;
  config.muon.router = true;
  auto model = gpu_model();
  model.num_shared_experts = 1;
  const auto cpu = trained_on(at::kCPU, model, dtype, config), gpu = trained_on(kGpu, model, dtype, config);
  REQUIRE(gpu.size() == cpu.size());
  // Five steps of Newton-Schulz multiply what is small in a momentum, roundings too, by at most 3.4445^5.
  const double tolerance = 485 * 2 * error_of_pass(dtype);
  for (size_t i = 0; i < cpu.size(); ++i) {
    INFO("state " << i);
    CHECK(relative(gpu[i], cpu[i]) <= tolerance);
  }
}

TEST_CASE("GPU: captured steps of variants have the bits of eager ones", "[cuda]") {
  std::vector<std::pair<std::string, ModelConfig>> models;
  for (const auto& variant : routing_variants()) models.emplace_back(variant.name, with(variant, gpu_model()));
  for (const auto& variant : block_variants()) {
    models.emplace_back(variant.name, gpu_model());
    variant.change(models.back().second);
  }
  for (const auto& [name, model] : models) {
    INFO(name);
    if (!can_be_captured(model)) continue;
    const auto eager = trained_on(kGpu, model, at::kFloat, {}),
               captured = trained_on(kGpu, model, at::kFloat, {}, true);
    REQUIRE(captured.size() == eager.size());
    for (size_t i = 0; i < eager.size(); ++i) CHECK(at::equal(captured[i], eager[i]));
  }
}
