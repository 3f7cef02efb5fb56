// The model on a GPU compared with the CPU, and properties of a step on a GPU: no host sync, and the same
// bits each time. Tagged [cuda]; without a GPU these fail.
#include "model/init.h"
#include "parallel/collectives/nccl_communicator.h"
#include "support/catch.h"
#include "support/one_pass.h"
#include "support/trainer_fixtures.h"
#include "trainer/checkpoint/staged_bytes.h"
#include "trainer/device/cuda_device.h"
#include "trainer/device/cuda_graph.h"
#include "trainer/device/tensor_memory.h"
#include "trainer/device_step.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// What a rank has after some steps, on the CPU.
struct Trained {
  std::vector<at::Tensor> numbers, held_out, state;
};
/// Steps of three accumulation steps, the last one smaller, each with an evaluation, which leaves weights gathered.
Trained train(Communicator& world, at::Device device, StageRunner::Options options, bool graph,
              const kernels::AttentionMethod& attention = {}) {
  constexpr int64_t kSteps = 5, kMicroBatch = 2, kLength = 16;
  const int64_t global_batch = 4 * world.size() + 1;
  options.device = device;
  const auto model = gpu_model();
  DeviceMesh mesh(world, {.replicate = 1, .shard = world.size(), .expert = 1});
  StageRunner runner(make_stages(model, mesh, {}, attention), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const OptimizerConfig config;
  Optimizer optimizer(runner.units(), config);
  const std::shared_ptr<const SequenceSource> source = make_synthetic_source(kLength, model.vocab_size, 5);
  const DataLoader::Plan plan{{global_batch, kMicroBatch, world.size()}, world.rank(), 2};
  DeviceStep step(runner, optimizer, mesh, plan.batches, graph ? cuda::make_device_graph(device) : nullptr);
  DataLoader loader(source, plan, 0);
  Trained out;
  for (int64_t s = 1; s <= kSteps; ++s) {
    out.numbers.push_back(step.run([&] { return loader.next(); }, s, 1e-2 / static_cast<double>(s)).packed().cpu());
    out.held_out.push_back(runner.evaluate(make_batch(*source, 1000, 2)).cpu());
  }
  for (const auto& state : optimizer.state()) out.state.push_back(state.flat.cpu());
  return out;
}

void check_same(const std::vector<at::Tensor>& ours, const std::vector<at::Tensor>& reference) {
  REQUIRE(ours.size() == reference.size());
  REQUIRE_FALSE(ours.empty());
  for (size_t i = 0; i < ours.size(); ++i) {
    INFO("number " << i);
    CHECK(at::equal(ours[i], reference[i]));
  }
}

void check_same(const Trained& ours, const Trained& reference) {
  check_same(ours.numbers, reference.numbers);
  check_same(ours.held_out, reference.held_out);
  check_same(ours.state, reference.state);
}

}  // namespace

TEST_CASE("GPU: losses and every gradient are those of the CPU", "[cuda]") {
  const auto dtype = GENERATE(at::kDouble, at::kFloat, at::kBFloat16);
  const double tolerance = 2 * error_of_pass(dtype);  // both sides round
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

TEST_CASE("GPU: fused experts give the losses and gradients of the unfused", "[cuda]") {
  auto model = gpu_model();
  model.expert_width = 256;
  model.top_k = model.num_experts;
  auto options = runner_options(at::kBFloat16, Residency::resident, GENERATE(false, true));
  options.device = at::Device(at::kCUDA, 0);
  const auto unfused = pass_of(model, options, kernels::ExpertKernels::unfused);
  const auto fused = pass_of(model, options, kernels::ExpertKernels::fused);
  const auto again = pass_of(model, options, kernels::ExpertKernels::fused);
  const double tolerance = 2 * error_of_pass(at::kBFloat16);
  CHECK(relative(fused.losses_3, unfused.losses_3) <= tolerance);
  for (const auto& [name, grad] : unfused.grads) {
    INFO(name);
    CHECK(relative(fused.grads.at(name), grad) <= tolerance);
    CHECK(at::equal(fused.grads.at(name), again.grads.at(name)));
  }
}

TEST_CASE("GPU: forward and backward give the same bits each time", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const at::Device device(at::kCUDA, 0);
  const auto first = pass_on(device, dtype), second = pass_on(device, dtype);
  CHECK(at::equal(first.losses_3, second.losses_3));
  for (const auto& [name, grad] : first.grads) {
    INFO(name);
    CHECK(at::equal(grad, second.grads.at(name)));
  }
}

namespace {

void check_pass_against_plan(kernels::AttentionKernel kernel, bool deterministic) {
  CAPTURE(enum_name(kernel), deterministic);
  auto config = tiny_run("unused");
  config.model = gpu_model();
  config.model.d_model = 256;
  config.model.expert_width = 256;
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.train.recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  config.train.attention_kernel = kernel;
  config.train.deterministic_attention = deterministic;
  config.data.sequence_length = 2048;
  CAPTURE(enum_name(config.train.recompute));
  const at::Device device(at::kCUDA, 0);
  auto options = gpu_options(at::kBFloat16, Residency::resident, config.train.recompute);
  options.device = device;
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  const auto attention = kernels::make_attention_method(kernel, deterministic);
  StageRunner runner(make_stages(config.model, mesh, {}, attention), mesh, options);
  fill_weights(runner.units(), random_init(config.model, 7));
  const auto batch = batch_of(at::randint(config.model.vocab_size, {config.train.micro_batch_size, 2048}, at::kLong));
  const auto scale = loss_scale(batch.num_targets, /*aux_share=*/1.0, runner.device());
  runner.train_micro_batch(batch, scale);  // the first one makes tables, handles and the libraries' workspaces
  const int64_t before = tensor_memory::bytes(device).value();
  tensor_memory::reset_peak(device);
  runner.train_micro_batch(batch, scale);
  const auto plan = plan_memory(config, {}, cuda::gpu_facts(0).multiprocessors);
  INFO(describe(plan));
  CHECK(static_cast<double>(plan.batches + plan.activations + plan.temporaries) ==
        Approx(static_cast<double>(tensor_memory::peak_bytes(device).value() - before)).epsilon(0.05));
}

}  // namespace

TEST_CASE("GPU: memory of forward and backward is the plan's, within 5 %", "[cuda]") {
  check_pass_against_plan(kernels::AttentionKernel::flash, GENERATE(true, false));
}

TEST_CASE("GPU: memory with cudnn attention is the plan's, within 5 %", "[cuda]") {
  check_pass_against_plan(kernels::AttentionKernel::cudnn, GENERATE(true, false));
}

TEST_CASE("GPU: cudnn attention gives flash's losses and gradients, with the same bits in a graph", "[cuda]") {
  const at::Device device(at::kCUDA, 0);
  auto model = gpu_model();
  model.top_k = model.num_experts;
  auto options =
      gpu_options(at::kBFloat16, Residency::resident, GENERATE(Recompute::none, Recompute::selective, Recompute::full));
  options.device = device;
  const auto cudnn = kernels::make_attention_method(kernels::AttentionKernel::cudnn, true);
  const auto pass = [&](const kernels::AttentionMethod& method) {
    return pass_of(model, options, kernels::ExpertKernels::unfused, method);
  };
  const auto flash = pass({}), ours = pass(cudnn), again = pass(cudnn);
  const double tolerance = 2 * error_of_pass(at::kBFloat16);
  CHECK(relative(ours.losses_3, flash.losses_3) <= tolerance);
  for (const auto& [name, grad] : flash.grads) {
    INFO(name);
    CHECK(relative(ours.grads.at(name), grad) <= tolerance);
    CHECK(at::equal(ours.grads.at(name), again.grads.at(name)));
  }
  const auto world = make_single_communicator();
  check_same(train(*world, device, options, true, cudnn), train(*world, device, options, false, cudnn));
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
  auto options = gpu_options(at::kBFloat16, GENERATE(Residency::pooled, Residency::resident), recompute);
  options.device = at::Device(at::kCUDA, 0);
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const OptimizerConfig config;
  Optimizer optimizer(runner.units(), config);
  const auto batch = random_batch(model);
  const auto scale = loss_scale(batch.num_targets, /*aux_share=*/1.0, runner.device());
  runner.train_micro_batch(batch, scale);  // the first one makes tables and handles
  const cuda::NoHostSync no_sync;
  for (int64_t step = 1; step <= 2; ++step) {
    runner.reset_totals();
    runner.train_micro_batch(batch, scale);
    runner.train_micro_batch(batch_of(batch.ids_BS.narrow(0, 0, 0)), scale);  // an empty micro-batch
    optimizer.step(step, 1e-3, optimizer.grad_norm(mesh.shard()));
  }
  CHECK_THROWS(runner.totals().losses_3.cpu());  // what the guard is there to see
}

TEST_CASE("GPU: replayed steps have the bits of eager ones", "[cuda]") {
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const bool recompute = GENERATE(false, true), overlap = GENERATE(true, false);
  CAPTURE(dtype, recompute, overlap);
  auto options = runner_options(dtype, residency, recompute);
  options.overlap = overlap;
  const at::Device device(at::kCUDA, 0);
  const auto world = make_single_communicator();
  check_same(train(*world, device, options, true), train(*world, device, options, false));
}

TEST_CASE("GPU: over NCCL, also with registered memory, replayed steps have the bits of eager ones", "[cuda]") {
  const int ranks = cuda::device_count();
  REQUIRE(ranks > 0);
  const auto residency = GENERATE(Residency::pooled, Residency::resident);
  const bool registered = GENERATE(false, true);
  auto options = runner_options(at::kBFloat16, residency);
  options.registered_memory = registered;
  const auto run = [&](bool graph) {
    std::vector<Trained> out(static_cast<size_t>(ranks));
    run_ranks(ranks, [&](Communicator& threads) {
      const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(threads.rank()));
      cuda::use_device(threads.rank());
      const auto world = make_nccl_communicator(threads.split(0, threads.rank(), "world"), device);
      out[static_cast<size_t>(threads.rank())] = train(*world, device, options, graph);
    });
    return out;
  };
  const auto with = run(true), without = run(false);
  for (size_t rank = 0; rank < with.size(); ++rank) {
    INFO("rank " << rank << " of " << ranks);
    check_same(with[rank], without[rank]);
  }
}

TEST_CASE("GPU: host syncs are counted, and a step has none", "[cuda]") {
  const bool graph = GENERATE(false, true);
  const at::Device device(at::kCUDA, 0);
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  auto options = runner_options(at::kBFloat16);
  options.device = device;
  StageRunner runner(make_stages(gpu_model(), mesh), mesh, options);
  fill_weights(runner.units(), random_init(gpu_model(), 7));
  const OptimizerConfig config;
  Optimizer optimizer(runner.units(), config);
  const auto batch = random_batch(gpu_model());
  DeviceStep step(runner, optimizer, mesh, {.global_batch = 6, .micro_batch = 3, .ranks = 1},
                  graph ? cuda::make_device_graph(device) : nullptr);
  const auto next = [&] { return batch; };
  int64_t done = 0;
  for (int i = 0; i <= StepGraph::kWarmUpSteps; ++i) step.run(next, ++done, 1e-3);  // the last one captures
  const cuda::HostSyncCounter counter;
  at::Tensor numbers;
  for (int i = 0; i < 3; ++i) numbers = step.run(next, ++done, 1e-3).packed();
  CHECK(counter.count() == 0);
  const auto read = numbers.cpu();
  CHECK(counter.count() == 1);
  CHECK(read[3].item<double>() > 0);
}

TEST_CASE("GPU: a capture runs nothing before its replay", "[cuda]") {
  const at::Device device(at::kCUDA, 0);
  const auto graph = cuda::make_device_graph(device);
  auto x = at::ones({8}, at::device(device).dtype(at::kFloat));
  CHECK_THROWS(graph->replay());
  graph->warm_up([&] { x.add_(1); });
  CHECK(x.sum().item<double>() == 16);
  graph->capture([&] { x.add_(1); });
  CHECK(x.sum().item<double>() == 16);
  graph->replay();
  graph->replay();
  CHECK(x.sum().item<double>() == 32);
  CHECK_THROWS(graph->capture([] {}));
}

TEST_CASE("GPU: a failed capture leaves the allocator as it was, and another graph works", "[cuda]") {
  const at::Device device(at::kCUDA, 0);
  auto x = at::ones({8}, at::device(device).dtype(at::kFloat));
  {
    const auto graph = cuda::make_device_graph(device);
    graph->warm_up([&] { x.add_(1); });
    CHECK_THROWS(graph->capture([&] { (x + 1).sum().item<double>(); }));  // would wait for what is not done
  }
  const int64_t before = tensor_memory::bytes(device).value();
  auto large = at::empty({1 << 26}, at::device(device).dtype(at::kByte));
  CHECK(tensor_memory::bytes(device).value() - before == 1 << 26);
  large.reset();
  CHECK(tensor_memory::bytes(device).value() == before);
  const auto another = cuda::make_device_graph(device);
  another->warm_up([&] { x.add_(1); });
  another->capture([&] { x.add_(1); });
  another->replay();
  CHECK(x.sum().item<double>() == 32);
}

TEST_CASE("GPU: the bytes of a tensor come through a piece of host memory", "[cuda]") {
  const auto host = at::arange(1000, at::kFloat), there = host.to(at::kCUDA);
  StagedBytes staged(512);
  std::string bytes;
  staged.read(there.narrow(0, 3, 900), [&](std::span<const std::byte> piece) {
    CHECK(piece.size() <= 512);
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  CHECK(bytes == std::string(static_cast<const char*>(host.narrow(0, 3, 900).const_data_ptr()), 3600));
}
