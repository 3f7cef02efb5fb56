// Rounding errors of a compute dtype in a forward and backward: the [cuda] tests' tolerances are twice this.
#include "support/catch.h"
#include "support/one_pass.h"

using namespace olmoe;
using namespace olmoe::test;

TEST_CASE("losses and gradients have at most the rounding error that is allowed to other devices") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  auto model = gpu_model();
  model.top_k = model.num_experts;  // a choice that falls the other way is no rounding error
  const auto pass = [&](at::ScalarType of) {
    return pass_of(model, gpu_options(of, Residency::resident, Recompute::none), kernels::ExpertKernels::unfused);
  };
  const auto exact = pass(at::kDouble), ours = pass(dtype);
  CAPTURE(dtype);
  double worst = relative(ours.losses_3, exact.losses_3);
  for (const auto& [name, grad] : exact.grads)
    worst = std::max(worst, relative(ours.grads.at(name).to(at::kDouble), grad));
  CHECK(worst <= error_of_pass(dtype));
  CHECK(worst >= error_of_pass(dtype) / 30);  // it is no bound that anything would meet
}
