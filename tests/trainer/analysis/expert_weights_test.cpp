// Similarity of experts by weights, and experts whose outputs stand out.
#include "trainer/analysis/expert_weights.h"

#include <ATen/ATen.h>

#include "support/catch.h"

namespace {

using namespace olmoe;

}  // namespace

TEST_CASE("cosines of rows that are read in pieces are those of whole rows") {
  auto generator = at::detail::createCPUGenerator(1);
  auto rows = at::randn({4, 100}, generator, at::TensorOptions().dtype(at::kFloat));
  rows[3].copy_(rows[1] * -2);
  const auto read = [&](int64_t expert, int64_t begin, at::Tensor out) {
    out.copy_(rows[expert].narrow(0, begin, out.numel()));
  };
  const auto whole = rows.to(at::kDouble);
  const auto expected = whole.matmul(whole.t()) / (whole.norm(2, {1}, true) * whole.norm(2, {1}, true).t());
  for (const int64_t piece : {7, 100, 1000}) {
    const auto similarity = cosines(expert_products(read, 4, 100, piece));
    CHECK((similarity - expected).abs().max().item<double>() < 1e-12);
    CHECK(similarity[1][3].item<double>() == Approx(-1).epsilon(1e-12));
  }
  CHECK(cosines(at::zeros({2, 2}, at::kDouble)).abs().max().item<double>() == 0);
}

TEST_CASE("super experts are above the 99.5th percentile and a tenth of the largest, by falling peak") {
  auto peaks_LE = (at::arange(1000, at::kDouble) * 0.001).view({10, 100});
  peaks_LE[4][7] = 50;
  peaks_LE[2][9] = 80;
  const auto found = super_experts(peaks_LE);
  // numpy.percentile(peaks, 99.5): between the values of ranks 994 and 995 of 999.
  const auto sorted = std::get<0>(peaks_LE.flatten().sort());
  const double expected =
      sorted[994].item<double>() + 0.005 * (sorted[995] - sorted[994]).item<double>();  // 0.995 * 999 = 994.005
  CHECK(found.percentile == Approx(expected).epsilon(1e-12));
  CHECK(found.tenth_of_largest == Approx(8));
  REQUIRE(found.found.size() == 2);
  CHECK(found.found[0].layer == 2);
  CHECK(found.found[0].expert == 9);
  CHECK(found.found[0].peak == 80);
  CHECK(found.found[1].layer == 4);
  peaks_LE[2][9] = 600;
  CHECK(super_experts(peaks_LE).found.size() == 1);  // 50 is below 60
}
