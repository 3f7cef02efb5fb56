// Bytes of tensors as their allocator counts them: what a block keeps for its backward, and the peak of a run beside
// the memory plan. One rank here; all layouts of ranks are tests/trainer/mpi/layouts_test.cpp's.
#include <thread>

#include "core/log.h"
#include "model/init.h"
#include "model/layers.h"
#include "model/moe_layer.h"
#include "support/catch.h"
#include "support/measured_memory.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr auto kHost = at::kCPU;

/// The feed-forward half of a block with experts, which notes what it keeps, its input included and its output not.
class MoeHalf : public Stage {
 public:
  MoeHalf(const ModelConfig& config, DeviceMesh& mesh, int64_t& kept_bytes)
      : config_(config),
        moe_(config, "moe", {config.expert_width},
             {std::make_shared<RowExchange>(mesh.expert(), kHost, Overlap::no), mesh.world()}, {}),
        kept_bytes_(kept_bytes) {}
  StageState state() override {
    StageState out{{{"norm.weight", {config_.d_model}, {config_.d_model}, 0, Axis::shard, &norm_D_}}};
    out.add(moe_.state());
    return out;
  }
  int64_t num_experts() const override { return config_.num_experts; }
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const int64_t before = tensor_memory::bytes(kHost).value();
    const auto y = compute(x_ND, context);
    kept_bytes_ = tensor_memory::bytes(kHost).value() - before;  // x was there before, y of its size is not kept
    return y;
  }
  StageCost cost(const CostContext&) const override { return {}; }  // its memory is measured

 private:
  StageOut compute(const at::Tensor& x_ND, StageContext& context) {
    return moe_.forward(olmoe::rms_norm(x_ND, norm_D_, config_.norm_eps, context.save_policy), x_ND, context);
  }

  const ModelConfig& config_;
  at::Tensor norm_D_;
  MoeLayer moe_;
  int64_t& kept_bytes_;
};

/// What MoeHalf keeps of 64 tokens in bf16.
int64_t kept_of_64_tokens(const ModelConfig& model, SavePolicy save_policy) {
  tensor_memory::count_host();
  int64_t kept_bytes = 0;
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  auto stages = make_stages(model, mesh);
  stages.at(1) = std::make_unique<MoeHalf>(model, mesh, kept_bytes);
  auto options = runner_options(at::kBFloat16);
  options.save_policy = save_policy;
  StageRunner runner(std::move(stages), mesh, options);
  // Any values would do, and random ones of so many weights take seconds.
  fill_weights(runner.units(), [](const std::string&, int64_t, at::Tensor out) { out.fill_(0.01); });
  runner.train_micro_batch(batch_of(at::randint(model.vocab_size, {2, 32}, at::kLong)), loss_scale(62, 1.0));
  return kept_bytes;
}

ModelConfig one_wide_block(int64_t top_k, int64_t rows_x_width) {
  auto model = tiny_model();
  model.num_layers = 1;
  model.d_model = 256;
  model.num_experts = 16;
  model.top_k = top_k;
  model.expert_width = rows_x_width / top_k;
  return model;
}

/// The total within 5 %, and what a micro-batch allocates as well, which the trained state would hide in the total.
void check_plan(const Config& config) {
  const auto world = make_single_communicator();
  const auto plan = plan_memory(config, {});
  const int64_t of_pass = plan.batches + plan.tables + plan.activations + plan.temporaries;
  const auto planned = static_cast<double>(plan.total()), peak = static_cast<double>(measured_peak(config, *world));
  const double state = planned - static_cast<double>(of_pass);
  INFO(describe(plan));
  INFO(fmt::format("measured {:.3f} MiB, planned {:.3f} MiB", peak / (1 << 20), planned / (1 << 20)));
  CHECK(planned == Approx(peak).epsilon(0.05));
  CHECK(static_cast<double>(of_pass) == Approx(peak - state).epsilon(0.05));
}

}  // namespace

TEST_CASE("tensors in host memory are counted while they live, whoever frees them") {
  constexpr int64_t kBytes = 1 << 20, kOfMalloc = 4096;  // large blocks are whole pages
  tensor_memory::count_host();
  const int64_t before = tensor_memory::bytes(kHost).value();
  tensor_memory::reset_peak(kHost);
  auto first = at::empty({kBytes}, at::kByte), view = first.narrow(0, 1, 2);
  const auto taken = [&] { return tensor_memory::bytes(kHost).value() - before; };
  CHECK(taken() >= kBytes);
  CHECK(taken() <= kBytes + kOfMalloc);
  auto second = at::empty({2 * kBytes}, at::kByte);
  first.reset();
  CHECK(taken() >= 3 * kBytes);  // the view holds it
  std::thread([&] { view.reset(); }).join();
  CHECK(taken() >= 2 * kBytes);
  CHECK(taken() <= 2 * kBytes + kOfMalloc);
  second.reset();
  CHECK(taken() == 0);
  CHECK(tensor_memory::peak_bytes(kHost).value() - before >= 3 * kBytes);
  CHECK(tensor_memory::peak_bytes(kHost).value() - before <= 3 * kBytes + 2 * kOfMalloc);
  tensor_memory::reset_peak(kHost);
  CHECK(tensor_memory::peak_bytes(kHost).value() == before);
}

TEST_CASE("saved for backward of experts: input, pre-activation, scores and places, for any top_k") {
  constexpr int64_t kTokens = 64, kRowsWidth = 2048;
  constexpr int64_t kBlocks = 16 * 40;  // malloc's part of fewer than 16 tensors, scalars among them
  int64_t least = 0, most = 0;
  for (const int64_t top_k : {1, 2, 4, 8}) {
    const auto model = one_wide_block(top_k, kRowsWidth);
    const int64_t kept = kept_of_64_tokens(model, SavePolicy::selective);
    // In bf16, 2 D + 4 K F a token; of each choice a score and three indices, of each token 1/rms.
    const int64_t rows = kTokens * (2 * model.d_model + 4 * kRowsWidth + 16 * top_k + 4);
    const int64_t by_expert = model.num_experts * (4 + 4 + 8);
    INFO(fmt::format("top {} of width {}: {} bytes, {} expected", top_k, model.expert_width, kept, rows + by_expert));
    CHECK(kept >= rows + by_expert);
    CHECK(kept <= rows + by_expert + kBlocks);
    // Kept as well otherwise: the normed copy, probabilities with their log-sum-exp, scores by token; counts.
    const int64_t more = kTokens * (2 * model.d_model + 4 * (model.num_experts + 1 + top_k)) + model.num_experts * 8;
    CHECK(std::abs(kept_of_64_tokens(model, SavePolicy::all) - kept - more) <= kBlocks);
    if (least == 0) least = kept;
    most = kept;
  }
  CHECK(static_cast<double>(most) <= 1.02 * static_cast<double>(least));
}

TEST_CASE("the peak of a run is the plan's, within 5 %") {
  TempFolder folder;
  auto config = measurable_run(folder / "run");
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  const auto recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  const auto dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
  CAPTURE(enum_name(ffn), enum_name(recompute), enum_name(dtype));
  config.model.ffn = ffn;
  config.train.recompute = recompute;
  config.train.compute_dtype = dtype;
  config.parallel.zero_stage = GENERATE(2, 3);
  check_plan(config);
}

TEST_CASE("the plan knows the head's chunk, micro-batches, clipping and what is loaded") {
  TempFolder folder;
  auto config = measurable_run(folder / "run");
  SECTION("a head wider than the blocks") {
    config.model.vocab_size = 6000;
    config.model.loss_chunk = 1000;
    CHECK(plan_memory(config, {}).peak == "loss and its gradients");
  }
  SECTION("one sequence a micro-batch") { config.train.micro_batch_size = 1; }
  SECTION("a micro-batch larger than the batch") { config.train.micro_batch_size = 64; }
  SECTION("clipping, no QK-norm, balance by sequence") {
    config.model.clip_qkv = 1.0;
    config.model.qk_norm = QkNorm::none;
    config.model.load_balancing_granularity = BalanceGranularity::sequence;
    config.train.recompute = GENERATE(Recompute::none, Recompute::selective);
  }
  SECTION("narrow experts, where attention takes most") {
    config.model.top_k = 1;
    config.model.expert_width = 16;
    config.train.recompute = GENERATE(Recompute::none, Recompute::selective);
  }
  SECTION("few tokens, where the slice of a parameter is the largest thing that is made") {
    config.data.sequence_length = 2;
    config.model.vocab_size = 6000;
    config.model.loss_chunk = 1;
    config.train.micro_batch_size = 1;
    CHECK(plan_memory(config, {}).peak == "initial weights");
  }
  SECTION("a tied head, an embedding that is scaled and normed, a z-loss of the output") {
    config.model.tie_embeddings = config.model.embedding_norm = true;
    config.model.embedding_scale = 16;
    config.model.output_z_weight = 1e-4;
    config.train.compute_dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
    config.parallel.zero_stage = GENERATE(1, 3);
  }
  SECTION("the successor's attention and norms") {
    config.model.norm_position = NormPosition::both;
    config.model.qk_norm = QkNorm::per_head;
    config.model.attention_gate = true;
    config.train.compute_dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
    config.train.recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  }
  check_plan(config);
}

TEST_CASE("the plan knows sigmoid scores, biases, shared experts, dense layers and balance over the step") {
  TempFolder folder;
  auto config = measurable_run(folder / "run");
  auto& model = config.model;
  config.train.recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  config.train.compute_dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
  CAPTURE(enum_name(config.train.recompute), enum_name(config.train.compute_dtype));
  SECTION("sigmoid, loss-free bias and a gated shared expert") {
    model.router_score = RouterScore::sigmoid;
    model.renormalize_scores = true;
    model.balancing_bias = ExpertBias::loss_free;
    model.num_shared_experts = 1;
    model.shared_expert_gate = true;
    model.shared_expert_width = 160;
  }
  SECTION("a dense first block, wider than the experts") {
    model.dense_layers = 1;
    model.dense_width = 320;
    model.num_shared_experts = 2;
  }
  SECTION("experts that all blocks share") {
    model.share_experts = true;
    config.parallel.zero_stage = GENERATE(1, 3);
  }
  SECTION("a width for each block, most in the middle") {
    model.num_layers = 3;
    model.layer_widths = {32, 320, 96};
  }
  SECTION("latent experts") { model.latent_dim = model.d_model / 2; }
  SECTION("latent experts beside a shared one, narrow ones that many rows go to") {
    model.latent_dim = model.d_model / 4;
    model.top_k = 5;
    model.num_shared_experts = 1;
    model.shared_expert_width = 160;
  }
  SECTION("experts that choose, one more row each than the mean") {
    model.routing = RoutingMethod::expert_choice;
    model.load_balancing_weight = 0;
  }
  SECTION("balance over the step, quantile bias") {
    model.load_balancing_granularity = BalanceGranularity::step;
    model.balancing_bias = ExpertBias::quantile;
    model.score_scale = 2.5;
  }
  check_plan(config);
}

TEST_CASE("the plan knows windows, blocks without rotary embedding, scalable softmax and documents") {
  TempFolder folder;
  auto config = measurable_run(folder / "run");
  auto& model = config.model;
  config.train.recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  config.train.compute_dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
  CAPTURE(enum_name(config.train.recompute), enum_name(config.train.compute_dtype));
  SECTION("windows and scalable softmax in narrow blocks") {
    model.attention_windows = {16};
    model.scalable_softmax = true;
    model.top_k = 1;
    model.expert_width = 16;
  }
  SECTION("no rotary embedding, within documents, scalable softmax") {
    model.position_embeddings = {PositionEmbedding::none};
    model.scalable_softmax = true;
    config.data.document_mask = DocumentMask::eos;
    config.data.eos_id = 1;
  }
  check_plan(config);
}

TEST_CASE("a token of OLMoE-1B-7B keeps 0.6 GB a layer for every 16,384 tokens") {
  auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", {"train.recompute=selective"});
  const auto shallow = plan_memory(config, {1, 256, 1}).activations;
  config.model.num_layers += 1;
  const auto layer = static_cast<double>(plan_memory(config, {1, 256, 1}).activations - shallow);
  // Of the experts 67 + 537 MB and 2 MB of indices; the other half of a block keeps its input, q|k|v and attended
  // values.
  CHECK(layer == Approx(16384. * (2 * 2048 + 4 * 8 * 1024 + 16 * 8 + 2 * 5 * 2048)).epsilon(0.01));
}
