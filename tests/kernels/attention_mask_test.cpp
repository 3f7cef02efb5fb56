// Attention within a window and within documents, and how positions are divided for it.
#include <ATen/ops/arange.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>

#include <numeric>
#include <optional>

#include "kernels/attention.h"
#include "kernels/attention_index.h"
#include "kernels/compare.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

struct Case {
  int64_t S, H, G, d, window;
  std::vector<int32_t> bounds;  ///< empty: two sequences of S positions
};

at::Tensor tensor_of(const std::vector<int32_t>& bounds) { return at::tensor(bounds, at::kInt); }

AttentionMask mask_of(const Case& c) {
  if (c.bounds.empty()) return {c.window, {}, {}};
  return {c.window, tensor_of(c.bounds), tensor_of(c.bounds)};
}

/// Keys that a query does not see, [S, S], written as their definitions.
at::Tensor hidden_keys(const Case& c) {
  const at::Tensor position = at::arange(c.S), behind_SS = position.unsqueeze(1) - position.unsqueeze(0);
  at::Tensor hidden_SS = behind_SS < 0;
  if (c.window > 0) hidden_SS = hidden_SS.logical_or(behind_SS >= c.window);
  if (c.bounds.empty()) return hidden_SS;
  const at::Tensor document = at::bucketize(position, tensor_of(c.bounds), false, /*right=*/true);
  return hidden_SS.logical_or(document.unsqueeze(1) != document.unsqueeze(0));
}

at::Tensor reference_attention(const Qkv& in, const at::Tensor& hidden_SS) {
  const int64_t H = in.q_BSHd.size(2), G = in.k_BSGd.size(2);
  const at::Tensor q = in.q_BSHd.transpose(1, 2), k = in.k_BSGd.repeat_interleave(H / G, 2).transpose(1, 2),
                   v = in.v_BSGd.repeat_interleave(H / G, 2).transpose(1, 2);
  const at::Tensor scores = q.matmul(k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  return scores.masked_fill(hidden_SS, -std::numeric_limits<double>::infinity()).softmax(3).matmul(v).transpose(1, 2);
}

/// Operands as in the model, column ranges of one fused projection, and a gradient.
struct Operands {
  Operands(int64_t B, const Case& c, at::ScalarType dtype)
      : H(c.H),
        G(c.G),
        fused(normal({B, c.S, c.H + 2 * c.G, c.d}, dtype, 1)),
        dy(normal({B, c.S, c.H, c.d}, dtype, 2)) {}
  Qkv split(const at::Tensor& x) const { return {x.narrow(2, 0, H), x.narrow(2, H, G), x.narrow(2, H + G, G)}; }

  int64_t H, G;
  at::Tensor fused, dy;
};

struct Computed {
  at::Tensor y, lse, grads;
};
Computed compute(const Operands& x, const AttentionMask& mask) {
  const AttentionOutput out = causal_attention(x.split(x.fused), {}, mask);
  const at::Tensor grads = at::full_like(x.fused, std::nan(""));  // all of it is written
  causal_attention_backward(x.dy, x.split(x.fused), out, x.split(grads), {}, mask);
  return {out.y_BSHd, out.lse_BHS, grads};
}
void check_same(const Computed& a, const Computed& b) {
  CHECK(same_bits(a.y, b.y));
  CHECK(same_bits(a.lse, b.lse));
  CHECK(same_bits(a.grads, b.grads));
}

const std::vector<Case> kCases{{37, 4, 4, 16, 1, {}},
                               {130, 2, 1, 8, 5, {}},
                               {200, 2, 2, 64, 64, {}},
                               {200, 2, 1, 16, 65, {}},
                               {300, 2, 2, 8, 100, {}},
                               {37, 4, 2, 16, 0, {0, 1, 2, 30, 37}},
                               {200, 2, 1, 8, 0, {0, 64, 129, 200}},
                               {200, 2, 2, 8, 0, {0, 200}},
                               {200, 4, 2, 8, 7, {0, 3, 120, 199, 200}}};

}  // namespace

TEST_CASE("attention with a window or documents, and its gradients, equal the formula", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto c = GENERATE(from_range(kCases));
  CAPTURE(dtype, c.S, c.H, c.G, c.d, c.window, c.bounds);
  const Operands x(c.bounds.empty() ? 2 : 1, c, dtype);
  const auto ours = compute(x, mask_of(c));

  const at::Tensor fused = reference(x.fused);
  const at::Tensor y = reference_attention(x.split(fused), hidden_keys(c));
  y.backward(x.dy.to(at::kDouble));
  CHECK(relative_error(ours.y, y) < bound(dtype, c.S + c.d, 2));
  // A query that sees one key has no score gradient but bf16's rounding of y.
  const double alone = dtype == at::kBFloat16 ? 1e-2 : 0;
  const Qkv grads = x.split(ours.grads), expected = x.split(fused.grad());
  CHECK(relative_error(grads.q_BSHd, expected.q_BSHd) < bound(dtype, c.S + c.d, 4) + alone);
  CHECK(relative_error(grads.k_BSGd, expected.k_BSGd) < bound(dtype, c.S + c.d, 4) + alone);
  CHECK(relative_error(grads.v_BSGd, expected.v_BSGd) < bound(dtype, c.S + c.d, 4));
}

TEST_CASE("a document has the bits that it has alone", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto window = GENERATE(int64_t{0}, int64_t{9});
  const Case c{200, 4, 2, 16, window, {0, 1, 70, 199, 200}};
  const Operands x(1, c, dtype);
  const auto together = compute(x, mask_of(c));
  for (size_t i = 0; i + 1 < c.bounds.size(); ++i) {
    const int64_t begin = c.bounds[i], rows = c.bounds[i + 1] - begin;
    auto one = x;
    one.fused = x.fused.narrow(1, begin, rows);
    one.dy = x.dy.narrow(1, begin, rows);
    const auto alone = compute(one, {window, {}, {}});
    check_same(
        {together.y.narrow(1, begin, rows), together.lse.narrow(2, begin, rows), together.grads.narrow(1, begin, rows)},
        alone);
  }
}

TEST_CASE("a window as long as a sequence, and one document, have the bits of full attention", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const Case c{150, 2, 1, 16, 0, {}};
  const Operands x(1, c, dtype);
  const auto full = compute(x, {});
  check_same(compute(x, {150, {}, {}}), full);
  check_same(compute(x, {1 << 20, {}, {}}), full);
  check_same(compute(x, {0, tensor_of({0, 150}), tensor_of({0, 150})}), full);
}

TEST_CASE("a window of one key gives its value", "[kernels]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const Case c{70, 2, 2, 8, 1, {}};
  const Operands x(2, c, dtype);
  const auto ours = compute(x, mask_of(c));
  CHECK(same_bits(ours.y, x.split(x.fused).v_BSGd.contiguous()));
  CHECK(same_bits(x.split(ours.grads).v_BSGd.contiguous(), x.dy));
}

TEST_CASE("documents do not see each other", "[kernels]") {
  const Case c{70, 2, 1, 8, 0, {0, 40, 70}};
  Operands x(1, c, at::kFloat);
  const auto before = compute(x, mask_of(c));
  x.fused.narrow(1, 0, 40).mul_(100);
  x.dy.narrow(1, 0, 40).mul_(100);
  const auto after = compute(x, mask_of(c));
  CHECK(same_bits(after.y.narrow(1, 40, 30), before.y.narrow(1, 40, 30)));
  CHECK(same_bits(after.grads.narrow(1, 40, 30), before.grads.narrow(1, 40, 30)));
  CHECK(relative_error(after.y.narrow(1, 0, 40), before.y.narrow(1, 0, 40)) > 1);
}

TEST_CASE("attention with documents has the same bits with any number of threads", "[kernels][openmp]") {
  const Case c{200, 4, 2, 16, 9, {0, 1, 70, 199, 200}};
  const Operands x(1, c, at::kFloat);
  const auto one = compute(x, mask_of(c));
  const TwoThreads two;
  check_same(compute(x, mask_of(c)), one);
}

TEST_CASE("attention refuses documents that do not divide one sequence", "[kernels]") {
  const at::Tensor q = normal({1, 9, 2, 4}, at::kFloat, 1), two = normal({2, 9, 2, 4}, at::kFloat, 1);
  const auto refused = [](const at::Tensor& x, const at::Tensor& bounds, const at::Tensor& on_cpu) {
    CHECK_THROWS_AS(causal_attention({x, x, x}, {}, {0, bounds, on_cpu}), olmoe::Error);
  };
  for (const auto& bounds : {tensor_of({0, 8}), tensor_of({1, 9}), tensor_of({0, 5, 5, 9}), tensor_of({0, 6, 4, 9}),
                             tensor_of({0, 9}).to(at::kLong), tensor_of({9})})
    refused(q, bounds, bounds);
  refused(q, tensor_of({0, 9}), {});
  refused(q, tensor_of({0, 9}), tensor_of({0, 4, 9}));
  refused(two, tensor_of({0, 9}), tensor_of({0, 9}));
  CHECK_THROWS_AS(causal_attention({q, q, q}, {}, {-1, {}, {}}), olmoe::Error);
}

TEST_CASE("blocks of queries cover what they see and no key before", "[kernels]") {
  for (const int64_t window : {1, 5, 64, 65, 1000}) {
    const auto segments = segments_of(1, 200, std::vector<int32_t>{0, 3, 130, 200}, window);
    REQUIRE(segments.list.size() == 3);
    CHECK(segments.longest == 127);
    CHECK(segments.blocks == 1 + 2 + 2);
    int64_t next = 0;  // positions in order, each in one block
    for (const auto& segment : segments.list)
      for (int64_t i = 0; i < segment.blocks(); ++i) {
        const auto block = block_at(segment, i, segments.window);
        CHECK(block.first == next);
        CHECK(block.keys <= segments.block_keys());
        CHECK(block.rows <= segments.block_rows());
        for (int64_t row = 0; row < block.rows; ++row) {
          const auto seen = block.visible(row);
          CHECK(block.key + seen.begin == std::max(segment.begin, next - window + 1));
          CHECK(block.key + seen.end == next + 1);
          ++next;
        }
      }
    CHECK(next == 200);
  }
}

TEST_CASE("documents are grouped so that their padding is no longer than their tokens", "[kernels]") {
  const auto groups_of = [](const std::vector<int32_t>& bounds, std::optional<int64_t> at_most = {}) {
    const int64_t most = at_most.value_or(most_documents(bounds.back()));
    const auto groups = document_groups(bounds, most);
    int64_t document = 0, row = 0;
    for (const auto& group : groups) {
      CHECK(group.first == document);
      CHECK(group.begin == row);
      CHECK(group.count >= 1);
      CHECK(group.count <= most);
      document += group.count;
      row += group.rows;
    }
    CHECK(document == std::ssize(bounds) - 1);
    CHECK(row == bounds.back());
    return groups;
  };
  CHECK(groups_of({0, 5}).size() == 1);
  CHECK(groups_of({0, 100, 512}).size() == 1);
  CHECK(groups_of({0, 100, 512}).front().longest == 412);
  std::vector<int32_t> ones;
  for (int32_t i = 0; i <= 512; ++i) ones.push_back(i);
  const auto groups = groups_of(ones);  // four at once
  CHECK(groups.size() == 128);
  CHECK(groups.front().longest == 1);
  CHECK(groups_of({0, 1, 2, 3, 4, 512}).size() == 2);
}

TEST_CASE("a call has no more documents than blocks fit along an axis of a grid", "[kernels]") {
  std::vector<int32_t> bounds(65'536);  // 65,535 documents
  std::iota(bounds.begin(), bounds.end(), 0);
  CHECK(document_groups(bounds, kMostDocuments).size() == 1);
  bounds.push_back(70'000);
  const auto groups = document_groups(bounds, kMostDocuments);
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].count + groups[1].count == 65'536);
  CHECK(groups[1].begin == groups[0].rows);
  CHECK(groups[1].longest == 70'000 - 65'535);
  for (const int64_t rows : {int64_t{1}, int64_t{4096}, int64_t{1} << 23, int64_t{1} << 30})
    CHECK(most_documents(rows) <= 65'535);
  CHECK(most_documents(int64_t{1} << 30) == 65'535);
}
