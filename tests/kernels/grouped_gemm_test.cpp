#include "kernels/grouped_gemm.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// Inclusive running sum of the rows of each expert.
at::Tensor offsets_of(const std::vector<int64_t>& rows) { return at::tensor(rows, at::kLong).cumsum(0).to(at::kInt); }

int64_t sum_of(const std::vector<int64_t>& rows) {
  int64_t sum = 0;
  for (const int64_t n : rows) sum += n;
  return sum;
}

}  // namespace

TEST_CASE("grouped GEMM and its gradients equal one GEMM for each expert", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto rows =
      GENERATE(values<std::vector<int64_t>>({{3, 0, 70, 1}, {0, 0, 9, 0}, {0, 0, 0, 0}, {16}, {5, 64, 33, 130}}));
  const auto [I, O] = GENERATE(table<int64_t, int64_t>({{1, 3}, {37, 29}, {64, 128}}));
  const int64_t E = rows.size(), R = sum_of(rows);
  CAPTURE(dtype, rows, I, O);
  const at::Tensor x = normal({R, I}, dtype, 1), w = normal({E, O, I}, dtype, 2), dy = normal({R, O}, dtype, 3);
  const at::Tensor offsets = offsets_of(rows), start = normal({E, O, I}, statistics_dtype(dtype), 4);
  at::Tensor y_ref = at::zeros({R, O}, at::kDouble), dx_ref = at::zeros({R, I}, at::kDouble),
             dw_ref = start.to(at::kDouble).clone();
  for (int64_t e = 0, first = 0; e < E; first += rows[e++]) {
    const at::Tensor x_e = x.narrow(0, first, rows[e]).to(at::kDouble),
                     dy_e = dy.narrow(0, first, rows[e]).to(at::kDouble);
    y_ref.narrow(0, first, rows[e]).copy_(x_e.matmul(w[e].to(at::kDouble).t()));
    dx_ref.narrow(0, first, rows[e]).copy_(dy_e.matmul(w[e].to(at::kDouble)));
    dw_ref[e].add_(dy_e.t().matmul(x_e));
  }
  CHECK(relative_error(grouped_gemm(x, w, offsets), y_ref) < bound(dtype, I));
  CHECK(relative_error(grouped_gemm_input_grad(dy, w, offsets), dx_ref) < bound(dtype, O));
  at::Tensor dw = start.clone();
  grouped_gemm_weight_grad(dy, x, offsets, dw);
  CHECK(relative_error(dw, dw_ref) < bound(dtype, R));
  for (int64_t e = 0; e < E; ++e)
    if (rows[e] == 0) CHECK(same_bits(dw[e], start[e]));
  // Stored over any contents, the gradient equals that added to zeros; zeros for an expert without rows.
  at::Tensor added = at::zeros_like(start), stored = at::full_like(start, std::nan(""));
  grouped_gemm_weight_grad(dy, x, offsets, added);
  grouped_gemm_weight_grad(dy, x, offsets, stored, GradWrite::store);
  CHECK(at::equal(stored, added));
}

TEST_CASE("dense GEMM and its gradients equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, I, O] =
      GENERATE(table<int64_t, int64_t, int64_t>({{0, 4, 5}, {1, 1, 1}, {65, 31, 47}, {256, 64, 192}}));
  CAPTURE(dtype, N, I, O);
  const at::Tensor x = normal({N, I}, dtype, 1), w = normal({O, I}, dtype, 2);
  const at::Tensor dy = normal({N, O + 3}, dtype, 3).narrow(1, 1, O),
                   start = normal({O, I}, statistics_dtype(dtype), 4);
  const at::Tensor x64 = x.to(at::kDouble), w64 = w.to(at::kDouble), dy64 = dy.to(at::kDouble);
  CHECK(relative_error(gemm(x, w), x64.matmul(w64.t())) < bound(dtype, I));
  CHECK(relative_error(gemm_input_grad(dy, w), dy64.matmul(w64)) < bound(dtype, O));
  at::Tensor dw = start.clone();
  gemm_weight_grad(dy, x, dw);
  CHECK(relative_error(dw, dy64.t().matmul(x64) + start.to(at::kDouble)) < bound(dtype, N));
}

TEST_CASE("a weight gradient reads expanded rows, of stride 0", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const at::Tensor x = normal({12, 8}, dtype, 1), dy = normal({1, 5}, dtype, 2).expand({12, 5});
  at::Tensor dw = at::zeros({5, 8}, at::TensorOptions().dtype(statistics_dtype(dtype)));
  gemm_weight_grad(dy, x, dw);
  CHECK(relative_error(dw, dy.to(at::kDouble).t().matmul(x.to(at::kDouble))) < bound(dtype, 12));
}

TEST_CASE("grouped GEMM has the same bits in every run with two threads", "[kernels][openmp]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const TwoThreads two;
  const at::Tensor offsets = offsets_of({100, 0, 300, 112}), x = normal({512, 64}, dtype, 5);
  const at::Tensor w = normal({4, 96, 64}, dtype, 6), dy = normal({512, 96}, dtype, 7);
  at::Tensor first, first_dw;
  for (int run = 0; run < 4; ++run) {
    const at::Tensor y = grouped_gemm(x, w, offsets);
    at::Tensor dw = at::zeros({4, 96, 64}, at::TensorOptions().dtype(statistics_dtype(dtype)));
    grouped_gemm_weight_grad(dy, x, offsets, dw);
    if (run == 0) first = y, first_dw = dw;
    CHECK(same_bits(y, first));
    CHECK(same_bits(dw, first_dw));
  }
}

TEST_CASE("grouped GEMM refuses offsets that do not cover the rows", "[kernels]") {
  const at::Tensor x = at::ones({6, 4}), w = at::ones({2, 3, 4});
  CHECK_THROWS_AS(grouped_gemm(x, w, at::tensor({2, 5}, at::kInt)), olmoe::Error);
  CHECK_THROWS_AS(grouped_gemm(x, w, at::tensor({2, 7}, at::kInt)), olmoe::Error);
  CHECK_THROWS_AS(grouped_gemm(x, w, at::tensor({7, 6}, at::kInt)), olmoe::Error);
  CHECK_THROWS_AS(grouped_gemm(x, w, at::tensor({6}, at::kInt)), olmoe::Error);
}
