// What stages state of their own cost, against what one forward and backward of each does: the GEMMs that are called
// and the bytes that the allocator counts. One rank; under expert parallelism the layouts' tests hold the memory plan.
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <atomic>

#include "kernels/attention_index.h"
#include "kernels/blas.h"
#include "model/transformer.h"
#include "support/asked_of_libtorch.h"
#include "support/attention_variants.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/routing_variants.h"
#include "trainer/device/tensor_memory.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using kernels::blas::Matrix;
using kernels::blas::Size;

std::atomic<int64_t> multiplied_flops = 0;

}  // namespace

// The kernels' own products of fp32 matrices, which LibTorch's dispatcher does not see: the linker calls the second for
// the first (cmake/tests.cmake).
void real_multiply(
    Size size, float alpha, Matrix<const float> a, Matrix<const float> b, float beta,
    Matrix<float> c) asm("__real__ZN5olmoe7kernels4blas8multiplyENS1_4SizeEfNS1_6MatrixIKfEES5_fNS3_IfEE");
void counted_multiply(
    Size size, float alpha, Matrix<const float> a, Matrix<const float> b, float beta,
    Matrix<float> c) asm("__wrap__ZN5olmoe7kernels4blas8multiplyENS1_4SizeEfNS1_6MatrixIKfEES5_fNS3_IfEE");
void counted_multiply(Size size, float alpha, Matrix<const float> a, Matrix<const float> b, float beta,
                      Matrix<float> c) {
  multiplied_flops += 2 * size.m * size.n * size.k;
  real_multiply(size, alpha, a, b, beta, c);
}

namespace {

// Large enough that the scratch of oneDNN's bf16 products, some 90 kB, is less than 1 %.
constexpr int64_t kSequences = 8, kPositions = 384;

ModelConfig model_of(Ffn ffn) {
  ModelConfig model = tiny_model();
  model.ffn = ffn;
  model.num_layers = 1;
  model.vocab_size = 2000;
  model.d_model = 192;
  model.num_heads = 6;
  model.num_kv_heads = 3;
  model.num_experts = 6;
  model.expert_width = 160;
  model.loss_chunk = 2048;
  return model;
}

/// The stages of a model with weights and gradient buffers, on one rank.
class Stages {
 public:
  Stages(const ModelConfig& config, at::ScalarType dtype)
      : config_(config), mesh_(*world_, {}), stages_(make_stages(config_, mesh_)) {
    const auto master = dtype == at::kDouble ? at::kDouble : at::kFloat;
    for (const auto& stage : stages_)
      for (const auto& param : stage->state().params) {
        *param.slot = at::randn(param.shape).mul_(0.1).to(dtype).requires_grad_(true);
        param.slot->mutable_grad() = at::zeros(param.shape, master);
      }
  }
  const std::vector<std::unique_ptr<Stage>>& all() const { return stages_; }

 private:
  const ModelConfig config_;
  std::unique_ptr<Communicator> world_ = make_single_communicator();
  DeviceMesh mesh_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

Batch batch_of_zeros_and_ones() {
  return batch_of(at::arange(kSequences * kPositions).remainder(2).view({kSequences, -1}));
}

at::Tensor input_of(size_t stage, const ModelConfig& model, at::ScalarType dtype) {
  if (stage == 0) return {};
  return at::randn({kSequences * kPositions, model.d_model}).to(dtype).requires_grad_(true);
}

void run_backward(const StageOut& out, const at::Tensor& dy) {
  torch::autograd::variable_list roots{out.y}, seeds{dy};
  if (out.aux.defined()) {
    roots.push_back(out.aux);
    seeds.push_back(at::ones_like(out.aux));
  }
  torch::autograd::backward(roots, seeds);
}

CostContext context_of(at::ScalarType dtype, SavePolicy save_policy) {
  return {.sequences = kSequences,
          .positions = kPositions,
          .multiprocessors = 1,
          .value_bytes = static_cast<int64_t>(c10::elementSize(dtype)),
          .save_policy = save_policy,
          .on_gpu = false};
}

struct Flops {
  double forward = 0, backward = 0;
};

/// Of the GEMMs that one forward and one backward call.
Flops called_flops(Stage& stage, const at::Tensor& x_ND, SavePolicy save_policy,
                   const Batch& batch = batch_of_zeros_and_ones()) {
  const auto seed = at::ones({}, at::kDouble);
  Routing routing;
  StageContext context{batch, Phase::train, routing, save_policy, seed};
  AskedOfLibTorch asked;
  const auto taken = [&] {
    const auto flops = static_cast<double>(asked.gemm_flops() + multiplied_flops.exchange(0));
    asked.forget();
    return flops;
  };
  multiplied_flops = 0;
  Flops out;
  const auto y = stage.forward(x_ND, context);
  out.forward = taken();
  run_backward(y, y.y.dim() == 0 ? seed : at::ones_like(y.y));
  out.backward = taken();
  return out;
}

/// Scores that a CPU computes of a sequence by those that count: 64 queries see all keys from the first that one of
/// them sees up to the last of them.
double whole_blocks(int64_t window) {
  const auto segments = kernels::segments_of(1, kPositions, {}, window);
  int64_t scores = 0;
  for (int64_t i = 0; i < segments.blocks; ++i) {
    const auto block = kernels::block_at(segments.list.front(), i, segments.window);
    scores += block.rows * block.keys;
  }
  return static_cast<double>(scores) / (kPositions * AttentionSpec{1, 1, 1, window}.mean_keys(kPositions));
}

/// As the stage states them, with attention's as a CPU computes it.
Flops stated_flops(const Stage& stage, SavePolicy save_policy, int64_t window = 0) {
  Flops out;
  for (const auto& work : stage.cost(context_of(at::kFloat, save_policy)).work) {
    const double executed = work.bound == Bound::attention ? whole_blocks(window) : 1;
    out.forward += executed * work.forward.flops;
    out.backward += executed * work.backward.flops;
  }
  return out;
}

struct Memory {
  int64_t output = 0, saved = 0, peak = 0;
};

/// Bytes that tensors take beside the input and the output, rotary tables being there already.
Memory allocated(Stage& stage, const at::Tensor& x_ND, SavePolicy save_policy,
                 const Batch& batch = batch_of_zeros_and_ones()) {
  tensor_memory::count_host();
  const auto seed = at::ones({}, at::kDouble);
  Routing routing;
  StageContext context{batch, Phase::train, routing, save_policy, seed};
  const auto taken = [before = tensor_memory::bytes(at::kCPU).value()](int64_t now) { return now - before; };
  tensor_memory::reset_peak(at::kCPU);
  const auto y = stage.forward(x_ND, context);
  Memory out;
  const bool last = y.y.dim() == 0;
  out.output = last ? 0 : static_cast<int64_t>(y.y.nbytes());
  out.saved = taken(tensor_memory::bytes(at::kCPU).value()) - out.output;
  if (!last) tensor_memory::reset_peak(at::kCPU);  // the gradients of the last stage are made in its forward
  run_backward(y, last ? seed : at::ones_like(y.y));
  out.peak = taken(tensor_memory::peak_bytes(at::kCPU).value()) - out.output;
  return out;
}

Memory stated_memory(const Stage& stage, at::ScalarType dtype, SavePolicy save_policy, bool documents = false) {
  auto context = context_of(dtype, save_policy);
  context.documents = documents;
  const auto cost = stage.cost(context);
  Memory out{cost.output, cost.saved, 0};
  for (const auto& point : cost.peaks) out.peak = std::max(out.peak, point.saved + point.temporaries);
  return out;
}

}  // namespace

TEST_CASE("the FLOPs that a stage states are those of the GEMMs that it calls") {
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  const auto save_policy = GENERATE(SavePolicy::all, SavePolicy::selective);
  CAPTURE(enum_name(ffn), save_policy == SavePolicy::all);
  auto model = model_of(ffn);
  SECTION("by default") {}
  SECTION("with a gate, norms of heads and after the branches") {
    model.attention_gate = true;
    model.qk_norm = QkNorm::per_head;
    model.norm_position = NormPosition::both;
  }
  const Stages stages(model, at::kFloat);
  for (size_t s = 0; s < stages.all().size(); ++s) {
    INFO("stage " << s);
    auto& stage = *stages.all()[s];
    const auto called = called_flops(stage, input_of(s, model, at::kFloat), save_policy);
    const auto stated = stated_flops(stage, save_policy);
    if (s + 1 < stages.all().size()) CHECK(stated.forward == called.forward);  // the last makes its gradients there
    CHECK(stated.forward + stated.backward == called.forward + called.backward);
    CHECK((called.forward > 0) == (s > 0));
  }
}

TEST_CASE("the memory that a stage states is within 2 % of what its forward leaves and its backward takes at most") {
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  const auto save_policy = GENERATE(SavePolicy::all, SavePolicy::selective);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  auto model = model_of(ffn);
  SECTION("by default") {}
  SECTION("clipping, no QK-norm, balance by sequence") {
    model.clip_qkv = 1.0;
    model.qk_norm = QkNorm::none;
    model.load_balancing_granularity = BalanceGranularity::sequence;
  }
  SECTION("narrow experts") { model.expert_width = 32; }
  SECTION("norms after the branches") { model.norm_position = NormPosition::post; }
  SECTION("norms before and after") { model.norm_position = NormPosition::both; }
  SECTION("LayerNorm") { model.norm = NormKind::layer; }
  SECTION("norms without weights") { model.norm_affine = NormAffine::none; }
  SECTION("norms of heads") { model.qk_norm = QkNorm::per_head; }
  SECTION("QK-norm without weights") { model.qk_norm = QkNorm::non_affine; }
  SECTION("a gate") { model.attention_gate = true; }
  SECTION("a z-loss of the output") { model.output_z_weight = 0.1; }
  CAPTURE(enum_name(ffn), save_policy == SavePolicy::all, dtype);
  const Stages stages(model, dtype);
  for (size_t s = 0; s < stages.all().size(); ++s) {
    INFO("stage " << s);
    auto& stage = *stages.all()[s];
    allocated(stage, input_of(s, model, dtype), save_policy);
    const auto measured = allocated(stage, input_of(s, model, dtype), save_policy);
    const auto stated = stated_memory(stage, dtype, save_policy);
    const auto close = [](int64_t a, int64_t b) {
      return Approx(static_cast<double>(b)).epsilon(0.02) == static_cast<double>(a);
    };
    INFO(fmt::format("saved {} of {} stated, peak {} of {}", measured.saved, stated.saved, measured.peak, stated.peak));
    CHECK(stated.output == measured.output);
    if (s > 0) CHECK(close(stated.peak, measured.peak));
    if (s == 1) CHECK(close(stated.saved, measured.saved));
  }
}

TEST_CASE("the FLOPs and the memory that stages of routing variants state are what they take") {
  const auto& variant = GENERATE(from_range(routing_variants()));
  const auto save_policy = GENERATE(SavePolicy::all, SavePolicy::selective);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  CAPTURE(variant.name, save_policy == SavePolicy::all, dtype);
  const auto base = model_of(Ffn::moe);
  auto model = with(variant, base);
  if (model.num_layers > 1) return;  // of blocks that other variants and the dense twin have
  model.dense_layers = 0;
  if (model.shared_expert_width > 0) model.shared_expert_width = 200;
  if (model.latent_dim > 0) model.latent_dim = 96;
  if (!model.layer_widths.empty()) model.layer_widths = {120};
  const Stages stages(model, dtype);
  auto& stage = *stages.all()[1];
  if (dtype == at::kFloat) {
    const auto called = called_flops(stage, input_of(1, model, dtype), save_policy);
    const auto stated = stated_flops(stage, save_policy);
    CHECK(stated.forward == called.forward);
    CHECK(stated.forward + stated.backward == called.forward + called.backward);
  }
  allocated(stage, input_of(1, model, dtype), save_policy);
  const auto measured = allocated(stage, input_of(1, model, dtype), save_policy);
  const auto stated = stated_memory(stage, dtype, save_policy);
  INFO(fmt::format("saved {} of {} stated, peak {} of {}", measured.saved, stated.saved, measured.peak, stated.peak));
  CHECK(static_cast<double>(stated.peak) == Approx(static_cast<double>(measured.peak)).epsilon(0.02));
  CHECK(static_cast<double>(stated.saved) == Approx(static_cast<double>(measured.saved)).epsilon(0.02));
}

TEST_CASE("the backward of many sigmoid scores, and of wide shared experts, takes most where it is stated") {
  auto model = model_of(Ffn::moe);
  model.num_experts = 240;
  model.top_k = 1;
  model.expert_width = 8;
  const bool shared = GENERATE(false, true);
  const auto save_policy = GENERATE(SavePolicy::all, SavePolicy::selective);
  if (shared) {
    model.num_shared_experts = 1;
    model.shared_expert_gate = true;
    model.shared_expert_width = 700;
  } else {
    model.router_score = RouterScore::sigmoid;
    model.num_heads = model.num_kv_heads = 1;
  }
  CAPTURE(shared, save_policy == SavePolicy::all);
  const Stages stages(model, at::kFloat);
  auto& stage = *stages.all()[1];
  allocated(stage, input_of(1, model, at::kFloat), save_policy);
  const auto measured = allocated(stage, input_of(1, model, at::kFloat), save_policy);
  const auto stated = stated_memory(stage, at::kFloat, save_policy);
  INFO(fmt::format("saved {} of {} stated, peak {} of {}", measured.saved, stated.saved, measured.peak, stated.peak));
  CHECK(static_cast<double>(stated.peak) == Approx(static_cast<double>(measured.peak)).epsilon(0.02));
}

TEST_CASE("the FLOPs and the memory that stages of attention variants state are what they take") {
  const auto& variant = GENERATE(from_range(attention_variants()));
  const auto save_policy = GENERATE(SavePolicy::all, SavePolicy::selective);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  CAPTURE(variant.name, save_policy == SavePolicy::all, dtype);
  auto model = with(variant, model_of(Ffn::moe));
  model.attention_windows.resize(std::min<size_t>(model.attention_windows.size(), 1));
  model.position_embeddings.resize(std::min<size_t>(model.position_embeddings.size(), 1));
  for (auto& window : model.attention_windows) window *= 30;  // some blocks of 64 queries see fewer keys, some not
  model.top_k = 1;                                            // so that attention takes most
  model.expert_width = 16;
  const Stages stages(model, dtype);
  auto& stage = *stages.all()[1];
  const auto batch = as_in(variant, batch_of_zeros_and_ones());
  if (dtype == at::kFloat) {
    const auto called = called_flops(stage, input_of(1, model, dtype), save_policy, batch);
    const auto stated = stated_flops(stage, save_policy, model.attention_window(0));
    const double both = stated.forward + stated.backward;
    if (variant.documents) {  // at most those of whole sequences
      CHECK(called.forward < stated.forward);
      CHECK(called.forward + called.backward < both);
    } else {
      CHECK(called.forward == Approx(stated.forward).epsilon(1e-12));
      CHECK(called.forward + called.backward == Approx(both).epsilon(1e-12));
    }
  }
  allocated(stage, input_of(1, model, dtype), save_policy, batch);
  const auto measured = allocated(stage, input_of(1, model, dtype), save_policy, batch);
  const auto stated = stated_memory(stage, dtype, save_policy, variant.documents);
  INFO(fmt::format("saved {} of {} stated, peak {} of {}", measured.saved, stated.saved, measured.peak, stated.peak));
  CHECK(static_cast<double>(stated.peak) == Approx(static_cast<double>(measured.peak)).epsilon(0.02));
  CHECK(static_cast<double>(stated.saved) == Approx(static_cast<double>(measured.saved)).epsilon(0.02));
}
