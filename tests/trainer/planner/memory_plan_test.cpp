#include "trainer/planner/memory_plan.h"

#include <algorithm>
#include <set>

#include "model/attention_memory.h"
#include "model/flops.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/planner/plan.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Bytes of the distinct buffers behind some tensors, without those that are a unit's own shard or
/// gradient.
int64_t shared_bytes(StageRunner& runner, const std::function<at::Tensor(const at::Tensor&)>& of_param) {
  std::set<const void*> seen;
  for (const auto& unit : runner.units()) seen.insert({unit->shard.storage().data(), unit->grad.storage().data()});
  int64_t bytes = 0;
  for (const auto& unit : runner.units())
    for (const auto& param : unit->params()) {
      const auto storage = of_param(*param.slot).storage();
      if (seen.insert(storage.data()).second) bytes += static_cast<int64_t>(storage.nbytes());
    }
  return bytes;
}

MemoryPlan allocated(const Config& config, DeviceMesh& mesh, at::ScalarType dtype) {
  auto options = runner_options(dtype);
  options.residency = config.parallel.zero_stage == 3 ? Residency::pooled : Residency::resident;
  options.grads = config.parallel.zero_stage == 1 ? Residency::resident : Residency::pooled;
  StageRunner runner(make_stages(config.model, mesh), mesh, options);
  Optimizer optimizer(runner.units(), config.optimizer);
  MemoryPlan plan{};
  for (const auto& unit : runner.units()) plan.gradients += static_cast<int64_t>(unit->grad.nbytes());
  for (const auto& tensor : optimizer.state())
    (tensor.kind == "weight" ? plan.weights : plan.moments) += static_cast<int64_t>(tensor.flat.nbytes());
  plan.gathered_weights = shared_bytes(runner, [](const at::Tensor& w) { return w; });
  plan.full_gradients = shared_bytes(runner, [](const at::Tensor& w) { return w.grad(); });
  return plan;
}

}  // namespace

TEST_CASE("the plan of weights, gradients, moments and buffers is what is allocated") {
  struct Dtype {
    ComputeDtype config;
    at::ScalarType tensor;
  };
  const auto dtype = GENERATE(Dtype{ComputeDtype::float32, at::kFloat}, Dtype{ComputeDtype::bfloat16, at::kBFloat16},
                              Dtype{ComputeDtype::float64, at::kDouble});
  const MeshShape shape = GENERATE(MeshShape{1, 1, 1}, MeshShape{1, 2, 1}, MeshShape{2, 1, 1}, MeshShape{2, 2, 1},
                                   MeshShape{1, 2, 2}, MeshShape{1, 4, 2}, MeshShape{2, 2, 2});
  auto config = tiny_run("unused");  // of sizes that need padding everywhere
  config.model.num_experts = 6;
  config.model.tie_embeddings = config.model.embedding_norm = GENERATE(false, true);
  config.model.share_experts = GENERATE(false, true);
  config.train.compute_dtype = dtype.config;
  config.parallel.zero_stage = GENERATE(1, 2, 3);
  std::vector<MemoryPlan> plans(static_cast<size_t>(shape.replicate * shape.shard));
  run_ranks(shape.replicate * shape.shard, [&](Communicator& world) {
    DeviceMesh mesh(world, shape);
    plans[static_cast<size_t>(world.rank())] = allocated(config, mesh, dtype.tensor);
  });
  const auto planned = plan_memory(config, shape);
  for (const auto& plan : plans) {
    INFO(fmt::format("{} bytes an element, replicate {} x shard {} (expert {}), ZeRO-{}",
                     c10::elementSize(dtype.tensor), shape.replicate, shape.shard, shape.expert,
                     config.parallel.zero_stage));
    CHECK(plan.weights == planned.weights);
    CHECK(plan.gradients == planned.gradients);
    CHECK(plan.moments == planned.moments);
    CHECK(plan.gathered_weights == planned.gathered_weights);
    CHECK(plan.full_gradients == planned.full_gradients);
  }
}

TEST_CASE("the plan of moments is what the rank that trains most allocates, without what is frozen") {
  const MeshShape shape = GENERATE(MeshShape{1, 1, 1}, MeshShape{1, 2, 1}, MeshShape{2, 2, 2}, MeshShape{1, 4, 2},
                                   MeshShape{1, 6, 1}, MeshShape{1, 6, 3});
  auto config = tiny_run("unused");
  config.model.num_experts = 6;
  config.optimizer.groups = {{.match = "embedding.weight", .frozen = true},
                             {.match = "blocks.1.moe.experts.*", .frozen = true},
                             {.match = "blocks.0.moe.experts.gate_up.weight", .frozen = true},
                             {.match = "blocks.*.attention.output.weight", .frozen = true}};
  std::vector<int64_t> moments(static_cast<size_t>(shape.replicate * shape.shard));
  run_ranks(shape.replicate * shape.shard, [&](Communicator& world) {
    DeviceMesh mesh(world, shape);
    moments[static_cast<size_t>(world.rank())] = allocated(config, mesh, at::kDouble).moments;
  });
  const auto planned = plan_memory(config, shape);
  INFO(fmt::format("replicate {} x shard {} (expert {})", shape.replicate, shape.shard, shape.expert));
  CHECK(std::ranges::max(moments) == planned.moments);
  CHECK(planned.moments < 2 * planned.weights);
  config.optimizer.groups.clear();
  CHECK(plan_memory(config, shape).moments == 2 * planned.weights);
}

TEST_CASE("experts that blocks share are in one buffer in every ZeRO stage, and trained once") {
  auto config = tiny_run("unused");
  auto& model = config.model;
  model.num_experts = 4;
  model.expert_width = 64;
  config.train.compute_dtype = ComputeDtype::float32;
  const int64_t zero_stage = GENERATE(1, 2, 3);
  config.parallel.zero_stage = zero_stage;
  const auto of_blocks = plan_memory(config, {1, 4, 1});
  model.share_experts = true;
  const auto shared = plan_memory(config, {1, 4, 1});
  constexpr int64_t kExperts = 4 * 3 * 64 * 24 * 4;  // bytes of a block's, of three blocks
  CHECK(of_blocks.weights - shared.weights == 2 * kExperts / 4);
  CHECK(of_blocks.moments - shared.moments == 2 * 2 * kExperts / 4);
  const int64_t pooled = 2 - 1, resident = 3 - 1;  // buffers fewer
  CHECK(of_blocks.gathered_weights - shared.gathered_weights == (zero_stage == 3 ? pooled : resident) * kExperts);
  CHECK(of_blocks.full_gradients - shared.full_gradients == (zero_stage == 1 ? resident : pooled) * kExperts);
}

TEST_CASE("the plan cuts experts over expert x expert_shard, and with ZeRO-1 keeps every full gradient") {
  auto config = tiny_run("unused");
  auto& model = config.model;
  model.vocab_size = model.d_model = 128;  // blocks are larger than embedding and head
  model.num_kv_heads = 4;
  model.num_experts = 4;
  model.expert_width = 64;
  config.train.compute_dtype = ComputeDtype::float32;
  constexpr int64_t kExperts = 4 * 3 * 64 * 128;  // elements of a block
  const auto together = plan_memory(config, {1, 4, 1}), apart = plan_memory(config, {1, 4, 4}),
             half = plan_memory(config, {1, 4, 2});
  for (const auto& plan : {apart, half}) {  // a rank trains as much either way
    CHECK(plan.weights == together.weights);
    CHECK(plan.moments == together.moments);
  }
  // A rank with a fourth of the experts computes from its own copy, one with half of them gathers that half, twice.
  CHECK(together.gathered_weights - apart.gathered_weights == 2 * kExperts * 4);
  CHECK(together.gathered_weights - half.gathered_weights == 2 * kExperts / 2 * 4);
  CHECK(together.full_gradients - half.full_gradients == 2 * kExperts / 2 * 4);

  config.parallel.zero_stage = 1;
  const auto resident = plan_memory(config, {1, 4, 1});
  const int64_t all = count_parameters(model).total * 4, padding = resident.full_gradients - all;
  CHECK(padding >= 0);
  CHECK(padding < 8 * 4 * 128 * 4);  // units x ranks x 128 elements
  CHECK(resident.gathered_weights == resident.full_gradients);
}

TEST_CASE("a rank of 256 of OLMoE-1B-7B keeps a 256th of the trained state") {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", {});
  const auto plan = plan_memory(config, {1, 256, 1});
  CHECK(plan.weights >= 6'919'161'856 / 256 * 4);
  CHECK(static_cast<double>(plan.weights) == Approx(6'919'161'856. / 256 * 4).epsilon(1e-3));  // padding
  CHECK(plan.gradients == plan.weights);
  CHECK(plan.moments == 2 * plan.weights);
}

TEST_CASE("attention's backward in bf16 on a GPU: gradients, and a sum of dq for each wave of blocks") {
  auto model = gpu_model();  // four heads of 64, two key/value heads
  model.d_model = 256;
  const int64_t rows = 2 * 2048, grads = rows * (4 + 2 * 2) * 64 * 2, by_query_head = 2 * rows * 4 * 64 * 2;
  const int64_t dq_sum = rows * 4 * 64 * 4, row_sums = rows * 4 * 4;
  CHECK(flash_backward_bytes(model, {2, 2048}, 132) == grads + by_query_head + 17 * dq_sum + row_sums);
  CHECK(17 * dq_sum == 71'303'168);
  CHECK(flash_backward_bytes(model, {2, 2048}, 108) == grads + by_query_head + 14 * dq_sum + row_sums);

  const ModelConfig olmoe;
  const int64_t olmoe_rows = 4 * 4096;
  CHECK(flash_backward_bytes(olmoe, {4, 4096}, 132) ==
        3 * olmoe_rows * 2048 * 2 + 3 * olmoe_rows * 2048 * 4 + olmoe_rows * 16 * 4);
  CHECK(3 * olmoe_rows * 2048 * 4 == 402'653'184);

  model.d_model = 4 * 20;  // heads of 20 are computed as heads of 24, summed as heads of 32; 130 positions as 256
  model.num_kv_heads = 4;
  CHECK(flash_backward_bytes(model, {33, 130}, 132) ==
        33 * 130 * 12 * 24 * 2 + 33 * 256 * 4 * 32 * 4 + 33 * 4 * 256 * 4 + 33 * 130 * 20 * 24 * 2);
}

TEST_CASE("attention's backward within documents has no more than twice the rows, whatever their number") {
  auto model = gpu_model();
  model.d_model = 256;  // four heads of 64, two key/value heads
  const int64_t rows = 2 * 2048, grads = rows * (4 + 2 * 2) * 64 * 2, by_query_head = 2 * rows * 4 * 64 * 2;
  CHECK(flash_backward_bytes(model, {2, 2048, true, true}, 132) ==
        grads + by_query_head + 2 * rows * 4 * (17 * 64 + 1) * 4);
  CHECK(flash_backward_bytes(model, {2, 2048, false, true}, 132) ==
        grads + by_query_head + 2 * rows * 4 * (64 + 1) * 4);
  // Of 64 sequences of 64 positions 32 documents are computed at once, in a group 16 of them at least.
  const int64_t short_rows = 64 * 64;
  CHECK(flash_backward_bytes(model, {64, 64, true, true}, 132) ==
        short_rows * 8 * 64 * 2 + 2 * short_rows * 4 * 64 * 2 + 2 * short_rows * 4 * (3 * 64 + 1) * 4);
}

TEST_CASE("attention's backward that may add up in any order has one sum of dq") {
  auto model = gpu_model();
  model.d_model = 256;
  const int64_t dq_sum = 2 * 2048 * 4 * 64 * 4;
  const int64_t h100 = flash_backward_bytes(model, {2, 2048, false}, 132);
  CHECK(flash_backward_bytes(model, {2, 2048}, 132) - h100 == 16 * dq_sum);
  CHECK(flash_backward_bytes(model, {2, 2048, false}, 108) == h100);
}

TEST_CASE("cuDNN's workspace is what cuDNN 9.19.0 says of its plans for an H100") {
  struct Said {
    bool deterministic;
    int64_t B, H, G, S, d, bytes;
  };
  const auto said = GENERATE(values<Said>({{true, 4, 16, 16, 4096, 128, 2'148'532'480},
                                           {false, 4, 16, 16, 4096, 128, 135'266'560},
                                           {true, 8, 16, 16, 4096, 128, 4'297'064'704},
                                           {true, 4, 32, 4, 4096, 128, 4'565'500'160},
                                           {true, 2, 4, 4, 2048, 64, 67'174'656},
                                           {true, 2, 4, 2, 2048, 64, 71'368'960},
                                           {false, 2, 4, 2, 2048, 64, 8'454'400},
                                           {true, 2, 4, 4, 100, 64, 265'600},
                                           {false, 2, 4, 4, 100, 64, 208'256},
                                           {true, 2, 4, 2, 2000, 40, 69'733'120},
                                           {false, 2, 4, 2, 2000, 40, 5'184'256},
                                           {true, 1, 2, 2, 150, 128, 198'064},
                                           {true, 1, 2, 2, 40, 256, 33'344},
                                           {true, 2, 4, 4, 2048, 192, 67'174'656},
                                           {false, 1, 2, 2, 150, 256, 308'656},
                                           {true, 1, 2, 2, 2, 8, 33'040}}));
  CAPTURE(said.deterministic, said.B, said.H, said.G, said.S, said.d);
  ModelConfig model;
  model.num_heads = said.H;
  model.num_kv_heads = said.G;
  model.d_model = said.H * said.d;
  CHECK(cudnn_backward_bytes(model, {said.B, said.S, said.deterministic}) == said.bytes);
}

TEST_CASE("the plan has the buffers of the attention that the config names") {
  auto config = tiny_run("unused");
  config.model = gpu_model();
  config.model.d_model = config.model.expert_width = 256;
  config.data.sequence_length = 2048;
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  const AttentionSize size{config.train.micro_batch_size, 2048};
  const auto total = [&](kernels::AttentionKernel kernel, bool deterministic) {
    config.train.attention_kernel = kernel;
    config.train.deterministic_attention = deterministic;
    return plan_memory(config, {}, 132).total();
  };
  using enum kernels::AttentionKernel;
  const int64_t flash_bytes = total(flash, true);
  CHECK(total(cudnn, true) - flash_bytes ==
        cudnn_backward_bytes(config.model, size) - flash_backward_bytes(config.model, size, 132));
  CHECK(total(flash, false) < flash_bytes);
  CHECK(total(cudnn, false) < total(cudnn, true));
}

TEST_CASE("with few heads, attention's backward on a GPU is the peak") {
  auto config = tiny_run("unused");
  config.model = gpu_model();
  config.model.d_model = config.model.expert_width = 256;
  config.data.sequence_length = 2048;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  const auto of_pass = [&](DeviceKind device, Recompute recompute, int multiprocessors) {
    config.train.device = device;
    config.train.recompute = recompute;
    const auto plan = plan_memory(config, {}, multiprocessors);
    CHECK((plan.peak == "backward of the last attention") == (device == DeviceKind::cuda));
    return static_cast<double>(plan.batches + plan.activations + plan.temporaries);
  };
  using enum DeviceKind;
  CHECK(of_pass(cuda, Recompute::none, 132) == Approx(163e6).epsilon(0.03));  // with sums of dq of 71.3 MB
  for (const auto recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
    INFO(enum_name(recompute));
    const double h100 = of_pass(cuda, recompute, 132);
    CHECK(h100 - of_pass(cuda, recompute, 108) == 3 * 4096 * 256 * 4);
    CHECK(h100 - of_pass(cpu, recompute, 132) > 50e6);
  }
  config.train.compute_dtype = ComputeDtype::float32;  // where attention is another library's
  config.train.device = cuda;
  CHECK(plan_memory(config, {}, 132).total() == plan_memory(config, {}, 108).total());
}

TEST_CASE("the planner plans memory for the GPU that it is asked about") {
  auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml",
                            {"train.micro_batch_size=1", "model.expert_width=64", "data.sequence_length=16384"});
  const MeshShape mesh{1, 256, 1};
  const auto a100 = plan_memory(config, mesh, find_gpu("a100").multiprocessors),
             b200 = plan_memory(config, mesh, find_gpu("b200").multiprocessors);
  CHECK(b200.total() - a100.total() == (10 - 7) * 16384LL * 2048 * 4);
  for (const auto* name : {"a100", "b200"}) {
    const auto planned = plan_layouts(config, 256, find_gpu(name));
    const auto found = std::find_if(planned.begin(), planned.end(), [&](auto& p) {
      return p.layout == Layout{mesh, 3, Recompute::none};
    });
    REQUIRE(found != planned.end());
    CHECK(found->memory.total() == (std::string(name) == "a100" ? a100 : b200).total());
  }
}

TEST_CASE("fused experts need no gathered rows and no copy of weight gradients") {
  const std::vector<std::string> on_gpu{"train.device=cuda", "train.compute_dtype=bfloat16"};
  const auto planned = [&](const std::string& kernels, const std::string& recompute) {
    auto overrides = on_gpu;
    overrides.insert(overrides.end(), {"train.expert_kernels=" + kernels, "train.recompute=" + recompute});
    return plan_memory(load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", overrides), {1, 256, 1});
  };
  // In bf16, 4 sequences of 4,096 tokens and 8 choices of each: rows as wide as the experts, and as the model.
  constexpr int64_t kTokens = 4 * 4096, kRow = 2048 * 2, kHidden = kTokens * 8 * 1024 * 2, kWide = kTokens * 8 * kRow;
  constexpr int64_t kProduct = 64 * 2 * 1024 * 2048 * 2, kScores = kTokens * 8 * 4;
  for (const std::string recompute : {"none", "selective"}) {
    const auto unfused = planned("unfused", recompute), fused = planned("fused", recompute);
    const int64_t again = recompute == "selective" ? kTokens * kRow : 0;  // the normed rows
    INFO(recompute);
    CHECK(unfused.peak == "backward of the last feed-forward");
    CHECK(fused.peak == "backward of the last feed-forward");
    CHECK(fused.activations == unfused.activations);
    CHECK(unfused.temporaries == kTokens * kRow + kWide + 2 * kHidden + kProduct + again + kScores);
    CHECK(fused.temporaries == kTokens * kRow + 2 * kHidden + kWide + kTokens * kRow + kScores);
  }
}
