// The blocks of a model use the attention that it was built with, forward and backward.
#include "support/catch.h"
#include "support/one_pass.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Stands in for cuDNN: counts what it is asked for, and computes it as a CPU does.
struct Counted : kernels::CudnnAttention {
  kernels::AttentionOutput forward(const kernels::Qkv& in) override {
    ++forwards;
    return kernels::causal_attention(in);
  }
  void backward(const at::Tensor& dy, const kernels::Qkv& in, const kernels::AttentionOutput& forward,
                const kernels::Qkv& grads, bool deterministic) override {
    ++(deterministic ? in_order : in_any_order);
    kernels::causal_attention_backward(dy, in, forward, grads);
  }
  int64_t plans() const override { return 0; }
  int64_t forwards = 0, in_order = 0, in_any_order = 0;
};

}  // namespace

TEST_CASE("every block and its backward use the attention that the model was built with") {
  const auto ffn = GENERATE(Ffn::moe, Ffn::dense);
  const auto recompute = GENERATE(Recompute::none, Recompute::selective, Recompute::full);
  const bool deterministic = GENERATE(true, false);
  CAPTURE(enum_name(ffn), enum_name(recompute), deterministic);
  auto model = gpu_model();
  model.ffn = ffn;
  const auto options = gpu_options(at::kFloat, Residency::resident, recompute);
  const auto counted = c10::make_intrusive<Counted>();
  const auto unfused = kernels::ExpertKernels::unfused;
  const auto ours = pass_of(model, options, unfused, {deterministic, counted});
  const auto usual = pass_of(model, options, unfused);
  CHECK(counted->forwards == (recompute == Recompute::full ? 2 : 1) * model.num_layers);
  CHECK(counted->in_order == (deterministic ? model.num_layers : 0));
  CHECK(counted->in_any_order == (deterministic ? 0 : model.num_layers));
  CHECK(counted.use_count() == 1);  // the graphs that held it are gone
  CHECK(at::equal(ours.losses_3, usual.losses_3));
  for (const auto& [name, grad] : usual.grads) {
    INFO(name);
    CHECK(at::equal(ours.grads.at(name), grad));
  }
}
