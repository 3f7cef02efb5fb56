// A whole step of StageRunner as a stream capture sees it: on a device that only notes what its streams are asked, and
// refuses in a capture what CUDA refuses. What it computes is not the point here.
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/noting_device_ops.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr int64_t kWidth = 4;

/// x w, whose backward adds to the gradient of w by itself. Activations are on the CPU: autograd's engine would look
/// for an accelerator.
struct ScaleFunction : torch::autograd::Function<ScaleFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x_ND, at::Tensor* weight) {
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(weight);
    return x_ND * on_cpu(weight->detach());
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    auto& weight = *reinterpret_cast<at::Tensor*>(ctx->saved_data["weight"].toInt());
    weight.grad().add_(1);
    return {grads[0] * on_cpu(weight.detach()), {}};
  }
};

/// Multiplies by a weight; the first stage makes a row of each token, the last one a sum.
class Scaling final : public Stage {
 public:
  Scaling(size_t index, bool last) : name_(fmt::format("stage_{}", index)), last_(last) {}
  StageState state() override { return {{{name_ + ".weight", {kWidth}, {kWidth}, 0, Axis::shard, &weight_}}}; }
  StageCost cost(const CostContext&) const override { return {}; }
  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const auto rows = [&] { return at::ones({context.batch.ids_BS.numel(), kWidth}).requires_grad_(true); };
    const auto y = ScaleFunction::apply(x_ND.defined() ? x_ND : rows(), &weight_);
    return {last_ ? y.to(at::kDouble).sum() : y, {}, {}};
  }

 private:
  std::string name_;
  bool last_;
  at::Tensor weight_;
};

std::vector<std::unique_ptr<Stage>> stages(size_t count) {
  std::vector<std::unique_ptr<Stage>> out;
  for (size_t s = 0; s < count; ++s) out.push_back(std::make_unique<Scaling>(s, s + 1 == count));
  return out;
}

Batch batch(int64_t sequences) {
  const auto ids = at::ones({sequences, 3}, at::kLong).to(kNoting);
  return {ids, ids, sequences * 3};
}

/// What DeviceStep captures of a runner: micro-batches of some sequences, of none, and of some again.
void step(StageRunner& runner) {
  runner.reset_totals();
  const auto scale = loss_scale(/*num_targets=*/10, /*aux_share=*/0.5, kNoting);
  for (const int64_t sequences : {2, 0, 1})
    runner.train_micro_batch(batch(sequences), scale, /*last_of_step=*/sequences == 1);
  runner.reduce_replicas();
}

/// Weights and full gradients of ZeRO-1, 2 and 3.
struct Zero {
  Residency weights, grads;
};
constexpr std::array kZero{Zero{Residency::resident, Residency::resident}, Zero{Residency::resident, Residency::pooled},
                           Zero{Residency::pooled, Residency::pooled}};

}  // namespace

TEST_CASE("a step with gradient accumulation can be captured with each ZeRO stage") {
  const auto zero_stage = GENERATE(1, 2, 3);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const bool recompute = GENERATE(false, true), overlap = GENERATE(true, false);
  CAPTURE(zero_stage, dtype, recompute, overlap);
  noted_streams() = {};
  at::AutogradState::get_tls_state().set_multithreading_enabled(false);  // as each rank does; the device has no threads
  const auto [weights, grads] = kZero[static_cast<size_t>(zero_stage) - 1];
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(stages(4), mesh,
                     {.compute_dtype = dtype,
                      .device = kNoting,
                      .residency = weights,
                      .recompute = recompute,
                      .overlap = overlap,
                      .grads = grads});
  for (int warm_up = 0; warm_up < 2; ++warm_up) {
    step(runner);
    runner.evaluate(batch(2));
  }
  noted_streams().lines.clear();
  noted_streams().begin_capture();
  CHECK_NOTHROW(step(runner));
  CHECK_NOTHROW(noted_streams().end_capture());
  CHECK(noted_streams().lines.empty() != overlap);  // the side streams exist, and the capture has seen them
}
