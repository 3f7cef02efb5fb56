// The layouts that are passed to cuDNN's attention, without cuDNN: a reference computes the formula from the addresses,
// sizes and strides alone, which is all that cuDNN gets.
#include "kernels/cudnn/layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "kernels/attention.h"
#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// A tensor as it is passed to cuDNN.
struct Passed {
  explicit Passed(const at::Tensor& x)
      : memory(x.data_ptr()), sizes(x.sizes().vec()), strides(x.strides().vec()), dtype(x.dtype()) {}
  at::Tensor read() const { return at::from_blob(memory, sizes, strides, dtype).clone(); }
  void write(const at::Tensor& x) const { at::from_blob(memory, sizes, strides, dtype).copy_(x); }

  void* memory;
  std::vector<int64_t> sizes, strides;
  caffe2::TypeMeta dtype;
};

/// Scores of head h with the keys of head h / (H / G), in float64.
at::Tensor masked_scores(const at::Tensor& q_BHSd, const at::Tensor& k_BGSd) {
  const at::Tensor keys = k_BGSd.repeat_interleave(q_BHSd.size(1) / k_BGSd.size(1), 1);
  const at::Tensor scores = q_BHSd.matmul(keys.transpose(2, 3)) / std::sqrt(static_cast<double>(q_BHSd.size(3)));
  const at::Tensor future = at::ones({q_BHSd.size(2), q_BHSd.size(2)}, at::kBool).triu(1);
  return scores.masked_fill(future, -std::numeric_limits<double>::infinity());
}

/// Reference for cuDNN's forward.
void attend(const Passed& q, const Passed& k, const Passed& v, const Passed& y, const Passed& lse) {
  const at::Tensor scores = masked_scores(q.read().to(at::kDouble), k.read().to(at::kDouble));
  const at::Tensor values = v.read().to(at::kDouble).repeat_interleave(q.sizes[1] / k.sizes[1], 1);
  y.write(scores.softmax(3).matmul(values));
  lse.write(scores.logsumexp(3, /*keepdim=*/true));
}

}  // namespace

TEST_CASE("cuDNN's views of a fused projection give attention in place", "[kernels]") {
  const int64_t B = 2, S = 37, H = 4, G = 2, d = 16;
  const at::Tensor fused = normal({B, S, H + 2 * G, d}, at::kBFloat16, 1);
  const Qkv in{fused.narrow(2, 0, H), fused.narrow(2, H, G), fused.narrow(2, H + G, G)};
  for (const auto& x : {in.q_BSHd, in.k_BSGd, in.v_BSGd}) CHECK(cudnn::operand(x).is_same(x));  // no copy
  const AttentionOutput out{at::empty({B, S, H, d}, at::kBFloat16), at::empty({B, H, S}, at::kFloat)};
  const auto passed = [](const at::Tensor& x_BSHd) { return Passed(cudnn::as_BHSd(x_BSHd)); };
  CHECK(passed(in.k_BSGd).sizes == std::vector<int64_t>({B, G, S, d}));
  CHECK(passed(in.k_BSGd).strides == std::vector<int64_t>({S * (H + 2 * G) * d, d, (H + 2 * G) * d, 1}));
  CHECK(Passed(cudnn::as_BHS1(out.lse_BHS)).sizes == std::vector<int64_t>({B, H, S, 1}));
  attend(passed(in.q_BSHd), passed(in.k_BSGd), passed(in.v_BSGd), passed(out.y_BSHd),
         Passed(cudnn::as_BHS1(out.lse_BHS)));
  const AttentionOutput usual = causal_attention(in);
  CHECK(relative_error(out.y_BSHd, usual.y_BSHd) < 2 * bound(at::kBFloat16, S + d, 2));
  // A CPU sums up exponentials that are rounded to bf16.
  CHECK(relative_error(out.lse_BHS, usual.lse_BHS) < bound(at::kBFloat16, S + d));
}

TEST_CASE("gradients written through cuDNN's views fill their columns of the fused gradient only", "[kernels]") {
  const at::Tensor fused = at::zeros({2, 5, 6, 8}, at::kBFloat16), dk = normal({2, 2, 5, 8}, at::kBFloat16, 1);
  Passed(cudnn::as_BHSd(fused.narrow(2, 3, 2))).write(dk);
  CHECK(same_bits(fused.narrow(2, 3, 2), dk.transpose(1, 2).contiguous()));
  CHECK(fused.narrow(2, 0, 3).count_nonzero().item<int64_t>() == 0);
  CHECK(fused.narrow(2, 5, 1).count_nonzero().item<int64_t>() == 0);
}

TEST_CASE("operands that are not aligned to 16 bytes are copied for cuDNN", "[kernels]") {
  const at::Tensor x = normal({2, 5, 4, 16}, at::kBFloat16, 1);
  const auto copied = [](const at::Tensor& given) {
    const at::Tensor operand = cudnn::operand(given);
    CHECK(cudnn::is_aligned(operand));
    CHECK(same_bits(operand.contiguous(), given.contiguous()));
    return !operand.is_same(given);
  };
  CHECK_FALSE(copied(x));
  CHECK_FALSE(copied(x.narrow(3, 8, 8)));
  CHECK(copied(x.narrow(1, 0, 1).expand_as(x)));  // strides of 0
  CHECK(copied(x.narrow(3, 1, 8)));               // an address between
  CHECK(copied(x.transpose(2, 3).contiguous().transpose(2, 3)));
  CHECK(copied(normal({2, 5, 4, 20}, at::kBFloat16, 1).narrow(3, 0, 16)));
}
