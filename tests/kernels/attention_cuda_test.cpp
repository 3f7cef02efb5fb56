// Attention on a GPU by each kernel that train.attention_kernel names, in bf16, beside the CPU's in float64 on
// the same values: one side rounds (compare.h). Tagged [cuda]; without a GPU of compute capability 9.0 those of cuDNN
// fail.
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>

#include "kernels/attention.h"
#include "kernels/compare.h"
#include "trainer/device/cuda_device.h"
#include "trainer/device/cuda_graph.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

struct Shape {
  int64_t B, S, H, G, d;
};

/// Operands and gradients as the model has them: column ranges of one fused projection.
struct Case {
  explicit Case(Shape s, at::Device device = at::kCUDA)
      : H(s.H),
        G(s.G),
        fused(normal({s.B, s.S, s.H + 2 * s.G, s.d}, at::kBFloat16, 1).to(device)),
        dy(normal({s.B, s.S, s.H, s.d}, at::kBFloat16, 2).to(device)) {}
  Qkv split(const at::Tensor& x) const { return {x.narrow(2, 0, H), x.narrow(2, H, G), x.narrow(2, H + G, G)}; }

  int64_t H, G;
  at::Tensor fused, dy;
};

struct Computed {
  at::Tensor y, lse, grads;
};
Computed compute(const Case& c, const AttentionMethod& method, const AttentionMask& mask = {}) {
  const AttentionOutput out = causal_attention(c.split(c.fused), method, mask);
  const at::Tensor grads = at::full_like(c.fused, std::nan(""));  // all of it is written
  causal_attention_backward(c.dy, c.split(c.fused), out, c.split(grads), method, mask);
  return {out.y_BSHd, out.lse_BHS, grads};
}

AttentionMask on_cpu(AttentionMask mask) {
  mask.bounds = mask.bounds_cpu;
  return mask;
}

void check_exact(const Case& c, Shape s, const AttentionMethod& method, const AttentionMask& mask = {}) {
  Case exact(s, at::kCPU);
  exact.fused = exact.fused.to(at::kDouble);
  exact.dy = exact.dy.to(at::kDouble);
  const auto ours = compute(c, method, mask), reference = compute(exact, {}, on_cpu(mask));
  // Probabilities are rounded to bf16, their gradients too, and once more what is stored.
  const double tolerance = bound(at::kBFloat16, s.S * s.d, 4);
  CHECK(relative_error(ours.y.cpu(), reference.y) <= tolerance);
  CHECK(relative_error(ours.lse.cpu(), reference.lse) <= bound(at::kFloat, s.S * s.d, 1, 2));
  const auto [dq, dk, dv] = c.split(ours.grads.cpu());
  const auto [dq_exact, dk_exact, dv_exact] = c.split(reference.grads);
  CHECK(relative_error(dq, dq_exact) <= tolerance);
  CHECK(relative_error(dk, dk_exact) <= tolerance);
  CHECK(relative_error(dv, dv_exact) <= tolerance);
}

void check_same(const Computed& a, const Computed& b) {
  CHECK(same_bits(a.y.cpu(), b.y.cpu()));
  CHECK(same_bits(a.lse.cpu(), b.lse.cpu()));
  CHECK(same_bits(a.grads.cpu(), b.grads.cpu()));
}

/// Results of a CUDA graph that is replayed on operands copied in after its capture.
Computed replayed(const Case& c, const AttentionMethod& method) {
  Case placed = c;
  placed.fused = at::full_like(c.fused, 1);
  placed.dy = at::full_like(c.dy, 1);
  Computed out;
  const auto graph = olmoe::cuda::make_device_graph(c.fused.device());
  graph->warm_up([&] { compute(placed, method); });
  graph->capture([&] { out = compute(placed, method); });
  placed.fused.copy_(c.fused);
  placed.dy.copy_(c.dy);
  graph->replay();
  return out;
}

const std::vector<Shape> kShapes{{2, 64, 4, 4, 64}, {1, 130, 4, 2, 128}, {3, 257, 2, 1, 32}, {2, 1024, 4, 4, 128}};

}  // namespace

TEST_CASE("GPU: flash attention is exact to bf16, deterministic or not", "[cuda]") {
  const bool deterministic = GENERATE(true, false);
  const auto shape = GENERATE(from_range(kShapes));
  CAPTURE(deterministic, shape.B, shape.S, shape.H, shape.G, shape.d);
  const Case c(shape);
  const auto method = make_attention_method(AttentionKernel::flash, deterministic);
  check_exact(c, shape, method);
  if (deterministic) check_same(compute(c, method), compute(c, method));
}

/// Of `window` keys, and of documents with these bounds if there are any.
AttentionMask mask_of(int64_t window, const std::vector<int32_t>& bounds) {
  if (bounds.empty()) return {window, {}, {}};
  const at::Tensor on_cpu = at::tensor(bounds, at::kInt);
  return {window, on_cpu.to(at::kCUDA), on_cpu};
}

TEST_CASE("GPU: flash attention with a window is exact to bf16, deterministic or not", "[cuda]") {
  const bool deterministic = GENERATE(true, false);
  const auto shape = GENERATE(from_range(kShapes));
  const auto window = GENERATE(1, 33, 128, 5000);
  CAPTURE(deterministic, shape.S, shape.H, shape.G, shape.d, window);
  const Case c(shape);
  const auto method = make_attention_method(AttentionKernel::flash, deterministic);
  check_exact(c, shape, method, mask_of(window, {}));
  if (deterministic) check_same(compute(c, method, mask_of(window, {})), compute(c, method, mask_of(window, {})));
}

TEST_CASE("GPU: flash attention within documents is exact to bf16, deterministic or not", "[cuda]") {
  const bool deterministic = GENERATE(true, false);
  const auto window = GENERATE(0, 33);
  const auto shape = GENERATE(Shape{1, 700, 4, 2, 64}, Shape{1, 700, 4, 4, 20});
  std::vector<int32_t> ones;  // documents of one token: several groups
  for (int32_t i = 0; i <= 700; ++i) ones.push_back(i);
  const auto bounds = GENERATE_COPY(std::vector<int32_t>{0, 700}, std::vector<int32_t>{0, 1, 129, 130, 511, 700},
                                    std::vector<int32_t>{0, 5, 10, 15, 20, 25, 30, 35, 40, 700}, ones);
  CAPTURE(deterministic, window, shape.G, shape.d, bounds.size());
  const Case c(shape);
  const auto method = make_attention_method(AttentionKernel::flash, deterministic);
  const auto mask = mask_of(window, bounds);
  check_exact(c, shape, method, mask);
  if (deterministic) check_same(compute(c, method, mask), compute(c, method, mask));
}

TEST_CASE("GPU: flash attention takes more documents than blocks fit along an axis of a grid", "[cuda]") {
  const Shape shape{1, 65'600, 1, 1, 32};
  std::vector<int32_t> bounds;  // documents of one token, but for the last
  for (int32_t i = 0; i <= 65'590; ++i) bounds.push_back(i);
  bounds.push_back(65'600);
  const Case c(shape);
  check_exact(c, shape, make_attention_method(AttentionKernel::flash, true), mask_of(0, bounds));
}

TEST_CASE("GPU: attention in float64 with a window and documents equals a CPU's", "[cuda]") {
  const auto mask = mask_of(GENERATE(0, 7), {0, 3, 40, 41, 90});
  Case c({1, 90, 4, 2, 16}), exact({1, 90, 4, 2, 16}, at::kCPU);
  for (auto* each : {&c, &exact}) each->fused = each->fused.to(at::kDouble), each->dy = each->dy.to(at::kDouble);
  const auto ours = compute(c, {}, mask), reference = compute(exact, {}, on_cpu(mask));
  CHECK(relative_error(ours.y.cpu(), reference.y) < 1e-12);
  CHECK(relative_error(ours.grads.cpu(), reference.grads) < 1e-12);
}

TEST_CASE("GPU: masks are refused where no kernel has them", "[cuda]") {
  const auto q = normal({1, 8, 2, 16}, at::kFloat, 1).to(at::kCUDA), bf16 = q.to(at::kBFloat16);
  CHECK_THROWS_WITH(causal_attention({q, q, q}, {}, mask_of(3, {})), Catch::Contains("in fp32"));
  CHECK_THROWS_WITH(
      causal_attention({bf16, bf16, bf16}, make_attention_method(AttentionKernel::cudnn, true), mask_of(3, {})),
      Catch::Contains("cuDNN"));
}

TEST_CASE("GPU: cudnn attention is exact to bf16, deterministic or not", "[cuda]") {
  const bool deterministic = GENERATE(true, false);
  const auto shape = GENERATE(from_range(kShapes));
  CAPTURE(deterministic, shape.B, shape.S, shape.H, shape.G, shape.d);
  const Case c(shape);
  const auto method = make_attention_method(AttentionKernel::cudnn, deterministic);
  check_exact(c, shape, method);
  if (deterministic)
    for (int again = 0; again < 3; ++again) check_same(compute(c, method), compute(c, method));
}

TEST_CASE("GPU: cudnn attention builds one plan per shape, and then has no host syncs", "[cuda]") {
  const auto method = make_attention_method(AttentionKernel::cudnn, true);
  const Case one({1, 130, 4, 2, 128}), two({2, 130, 4, 2, 128});
  compute(one, method);
  CHECK(method.cudnn->plans() == 2);  // forward, backward
  compute(two, method);
  CHECK(method.cudnn->plans() == 4);
  {
    const olmoe::cuda::NoHostSync no_sync;
    compute(one, method);
    compute(two, method);
  }
  CHECK(method.cudnn->plans() == 4);
  compute(two, {false, method.cudnn});
  CHECK(method.cudnn->plans() == 5);  // another backward
}

TEST_CASE("GPU: attention in a CUDA graph has the bits of attention without one", "[cuda]") {
  const Case c({2, 257, 4, 2, 64});
  const auto method = make_attention_method(AttentionKernel::flash, true);
  check_same(replayed(c, method), compute(c, method));
}

TEST_CASE("GPU: cudnn attention in a CUDA graph has the bits of attention without one", "[cuda]") {
  const Case c({2, 257, 4, 2, 64});
  const auto method = make_attention_method(AttentionKernel::cudnn, true);
  check_same(replayed(c, method), compute(c, method));
}

TEST_CASE("GPU: cudnn attention of no sequences, and with an expanded gradient", "[cuda]") {
  const auto method = make_attention_method(AttentionKernel::cudnn, true);
  compute(Case({0, 8, 2, 2, 32}), method);
  CHECK(method.cudnn->plans() == 0);
  Case expanded({2, 64, 2, 2, 32}), repeated = expanded;
  expanded.dy = expanded.dy.narrow(1, 0, 1).expand_as(expanded.dy);
  repeated.dy = expanded.dy.contiguous();
  check_same(compute(expanded, method), compute(repeated, method));
}

TEST_CASE("GPU: cudnn attention refuses what it cannot compute", "[cuda]") {
  const auto method = make_attention_method(AttentionKernel::cudnn, true);
  const auto one = [](at::ScalarType dtype, at::Device device, int64_t d) {
    return normal({1, 4, 2, d}, dtype, 1).to(device);
  };
  const auto bf16 = at::kBFloat16;
  for (const auto& q : {one(bf16, at::kCPU, 8), one(at::kFloat, at::kCUDA, 8), one(bf16, at::kCUDA, 20)})
    CHECK_THROWS_WITH(causal_attention({q, q, q}, method), Catch::Contains("needs bf16 on a GPU"));
}
