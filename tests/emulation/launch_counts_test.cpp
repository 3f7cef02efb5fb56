// Kernels that a weight gradient launches: storing it takes no more than adding it, and clears nothing.
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <utility>

#include "emulation/launch.h"
#include "kernels/compare.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "support/asked_of_libtorch_registration.h"
#include "support/catch.h"

namespace {

using namespace olmoe;
using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;
using namespace olmoe::test;

/// Launches of `work`, and how often it cleared `written` as a whole or in part.
template <class Work>
std::pair<int64_t, int64_t> launches_and_clears(const at::Tensor& written, const Work& work) {
  const int64_t before = emulation::Launch::count();
  const AskedOfLibTorch asked;
  work();
  const auto of_it = [&](const auto& clear) { return clear.storage == written.storage().data(); };
  return {emulation::Launch::count() - before, std::count_if(asked.clears().begin(), asked.clears().end(), of_it)};
}

}  // namespace

TEST_CASE("a stored grouped weight gradient launches as many kernels as an added one, and clears nothing",
          "[emulation]") {
  const auto dtype = GENERATE(at::kBFloat16, at::kFloat, at::kDouble);
  const int64_t tokens = GENERATE(17, 64), experts = GENERATE(1, 6);
  CAPTURE(dtype, tokens, experts);
  constexpr int64_t kChoices = 2, kInputs = 32, kOutputs = 16;
  // All rows go to the first half of the experts: the others have none.
  const auto ids_NK = (at::arange(tokens * kChoices, at::kInt) % ((experts + 1) / 2)).view({tokens, kChoices});
  const auto rows = sort_by_expert(ids_NK, experts);
  const auto x = normal({tokens * kChoices, kInputs}, dtype, 2).to(at::kCUDA);
  const auto dy = normal({tokens * kChoices, kOutputs}, dtype, 3).to(at::kCUDA);
  const auto offsets = rows.offsets_E.to(at::kCUDA);
  const auto dw = at::zeros({experts, kOutputs, kInputs}, x.options().dtype(statistics_dtype(dtype)));
  const auto cost = [&](int64_t num_rows, const at::Tensor& offsets_E, GradWrite write) {
    const auto dy_RO = dy.narrow(0, 0, num_rows), x_RI = x.narrow(0, 0, num_rows);
    return launches_and_clears(dw, [&] { grouped_gemm_weight_grad(dy_RO, x_RI, offsets_E, dw, write); });
  };
  CHECK(cost(x.size(0), offsets, GradWrite::add) == std::pair<int64_t, int64_t>(1, 0));
  CHECK(cost(x.size(0), offsets, GradWrite::store) == std::pair<int64_t, int64_t>(1, 0));
  const auto no_rows = at::zeros_like(offsets);  // of a rank without tokens
  CHECK(cost(0, no_rows, GradWrite::add) == std::pair<int64_t, int64_t>(0, 0));
  CHECK(cost(0, no_rows, GradWrite::store) == std::pair<int64_t, int64_t>(0, 1));
}
