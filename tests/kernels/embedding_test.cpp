#include "kernels/embedding.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>

#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

TEST_CASE("embedding reads rows and its gradient adds to them", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const int64_t N = GENERATE(0, 1, 200), V = 30, D = 21;
  CAPTURE(dtype, N);
  at::Generator generator = at::detail::createCPUGenerator(1);
  const at::Tensor ids = at::randint(V, {N}, generator, at::TensorOptions().dtype(at::kLong)),
                   w = normal({V, D}, dtype, 2);
  CHECK(same_bits(olmoe::kernels::embedding(ids, w), w.index_select(0, ids)));
  const at::Tensor dx = normal({N, D + 1}, dtype, 3).narrow(1, 1, D);
  at::Tensor dw = at::ones({V, D}, at::TensorOptions().dtype(statistics_dtype(dtype)));
  olmoe::kernels::embedding_backward(dx, ids, dw);
  const at::Tensor expected = at::ones({V, D}, at::kDouble).index_add(0, ids, dx.to(at::kDouble));
  CHECK(relative_error(dw, expected) < bound(dtype, 20, 0));
}

TEST_CASE("many bf16 gradients of one token are summed in fp32", "[kernels][openmp]") {
  const at::Tensor dx = at::ones({4096, 3}, at::kBFloat16), ids = at::zeros({4096}, at::kLong);
  at::Tensor dw = at::zeros({2, 3});
  const TwoThreads two;
  olmoe::kernels::embedding_backward(dx, ids, dw);
  CHECK(same_bits(dw, at::tensor({4096.f, 4096.f, 4096.f, 0.f, 0.f, 0.f}).view({2, 3})));
}

TEST_CASE("embedding refuses ids outside the vocabulary", "[kernels]") {
  CHECK_THROWS_AS(olmoe::kernels::embedding(at::full({1}, 4, at::kLong), at::ones({4, 2})), olmoe::Error);
  CHECK_THROWS_AS(olmoe::kernels::embedding(at::full({1}, -1, at::kLong), at::ones({4, 2})), olmoe::Error);
  CHECK_THROWS_AS(olmoe::kernels::embedding_backward(at::ones({1, 2}), at::full({1}, 4, at::kLong), at::ones({4, 2})),
                  olmoe::Error);
}
