// Every kernel on a GPU compared with the same call on the CPU. Both round stored values in the same places; they
// differ in the order of sums, in fused multiply-adds, and in functions such as exp. The tolerance is that of two
// rounded results (compare.h), and one bf16 rounding in the other direction. Tagged [cuda]; without a GPU these fail.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/targets.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/compare.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

at::Tensor gpu(const at::Tensor& x) { return x.defined() ? x.to(at::kCUDA) : x; }

/// Compares `ours` on the GPU with `reference` on the CPU: sums of n terms, with `functions` consecutive functions.
bool close(const at::Tensor& ours, const at::Tensor& reference, int64_t n, int functions = 0,
           const at::Tensor& terms = {}) {
  if (!ours.is_cuda() || ours.scalar_type() != reference.scalar_type()) return false;
  return relative_error(ours.cpu(), reference, terms) <= 2 * bound(reference.scalar_type(), n, 1, functions);
}
bool same_on_gpu(const at::Tensor& ours, const at::Tensor& reference) {
  return ours.is_cuda() && same_bits(ours.cpu(), reference);
}

at::Tensor random_ids(int64_t high, at::IntArrayRef sizes, at::ScalarType dtype, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randint(high, sizes, generator, at::TensorOptions().dtype(dtype));
}

}  // namespace

TEST_CASE("GPU: rms_norm and its gradients", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, D] = GENERATE(table<int64_t, int64_t>({{0, 64}, {1, 8}, {300, 2048}, {5, 100}, {7, 1}, {1030, 33}}));
  CAPTURE(dtype, N, D);
  const auto x = normal({N, D}, dtype, 1), w = normal({D}, dtype, 2), dy = normal({N, D}, dtype, 3);
  const auto cpu_out = rms_norm(x, w, 1e-5), out = rms_norm(gpu(x), gpu(w), 1e-5);
  CHECK(close(out.y_ND, cpu_out.y_ND, D));
  CHECK(close(out.rstd_N, cpu_out.rstd_N, D));
  auto dw = normal({D}, statistics_dtype(dtype), 4), gpu_dw = gpu(dw), again = gpu(dw);
  const auto dx = rms_norm_backward(dy, x, w, cpu_out.rstd_N, dw);
  CHECK(close(rms_norm_backward(gpu(dy), gpu(x), gpu(w), gpu(cpu_out.rstd_N), gpu_dw), dx, D, /*functions=*/0,
              rms_norm_grad_terms(dy, x, w, cpu_out.rstd_N)));
  CHECK(close(gpu_dw, dw, N));
  rms_norm_backward(gpu(dy), gpu(x), gpu(w), gpu(cpu_out.rstd_N), again);
  CHECK(same_bits(again.cpu(), gpu_dw.cpu()));
}

TEST_CASE("GPU: a sum with its norm, and the gradient of both", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, D] = GENERATE(table<int64_t, int64_t>({{0, 64}, {1, 8}, {300, 2048}, {5, 100}, {7, 1}, {9, 20000}}));
  CAPTURE(dtype, N, D);
  const auto x = normal({N, D}, dtype, 1), residual = normal({N, D}, dtype, 2), w = normal({D}, dtype, 3);
  const auto sum = x.clone(), gpu_sum = gpu(x);
  const auto cpu_out = add_rms_norm(sum, residual, w, 1e-5), out = add_rms_norm(gpu_sum, gpu(residual), gpu(w), 1e-5);
  CHECK(same_bits(gpu_sum.cpu(), sum));
  CHECK(close(out.y_ND, cpu_out.y_ND, D));
  CHECK(close(out.rstd_N, cpu_out.rstd_N, D));
  const auto dy = normal({N, D}, dtype, 4), dx_residual = normal({N, D}, dtype, 5);
  auto dw = normal({D}, statistics_dtype(dtype), 6), gpu_dw = gpu(dw);
  const auto dx = rms_norm_backward(dy, sum, w, cpu_out.rstd_N, dw, dx_residual);
  CHECK(close(rms_norm_backward(gpu(dy), gpu_sum, gpu(w), gpu(cpu_out.rstd_N), gpu_dw, gpu(dx_residual)), dx, D));
  CHECK(close(gpu_dw, dw, N));
}

TEST_CASE("GPU: norm, clamp and rotary", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool norm = GENERATE(true, false);
  const auto clip = GENERATE(std::optional<double>{}, std::optional<double>{0.7});
  const auto [N, S, H, d] = GENERATE(
      table<int64_t, int64_t, int64_t, int64_t>({{12, 6, 2, 8}, {0, 4, 1, 2}, {64, 32, 16, 128}, {10, 5, 3, 6}}));
  CAPTURE(dtype, norm, clip.has_value(), N, S, H, d);
  const int64_t W = H * d;
  const auto fused = normal({N, 3 * W}, dtype, 1), dy = normal({N, W}, dtype, 2);
  const auto w = norm ? normal({W}, dtype, 3) : at::Tensor();
  const auto table_Sd = rotary_table(S, d, 10000, dtype);
  const NormRotaryOperands in{fused.narrow(1, W, W), w, table_Sd, clip};
  const auto gpu_fused = gpu(fused);
  const NormRotaryOperands gpu_in{gpu_fused.narrow(1, W, W), gpu(w), gpu(table_Sd), clip};
  const auto cpu_out = norm_rotary(in, 1e-5), out = norm_rotary(gpu_in, 1e-5);
  CHECK(close(out.y_NW, cpu_out.y_NW, W));
  auto dx = at::empty({N, W}, fused.options()), gpu_dx = gpu(dx);
  auto dw = norm ? at::zeros({W}, fused.options().dtype(statistics_dtype(dtype))) : at::Tensor();
  auto gpu_dw = gpu(dw);
  norm_rotary_backward(dy, in, cpu_out.rstd_N, dx, dw);
  norm_rotary_backward(gpu(dy), gpu_in, gpu(cpu_out.rstd_N), gpu_dx, gpu_dw);
  CHECK(close(gpu_dx, dx, W));
  if (norm) CHECK(close(gpu_dw, dw, N));
}

TEST_CASE("GPU: SwiGLU and its gradients", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool scored = GENERATE(true, false);
  const auto [R, F] = GENERATE(table<int64_t, int64_t>({{0, 8}, {1, 1}, {257, 1024}, {33, 100}}));
  CAPTURE(dtype, scored, R, F);
  const auto z = normal({R, 2 * F}, dtype, 1), dh = normal({R, F}, dtype, 2);
  const auto score = scored ? normal({R}, statistics_dtype(dtype), 3).abs() : at::Tensor();
  // Roundings of an element: of h five, of its gradients nine; and one exponential.
  constexpr int64_t kForward = 5, kBackward = 9;
  CHECK(close(swiglu(gpu(z), gpu(score)), swiglu(z, score), kForward, 1));
  const auto cpu_grads = swiglu_backward(dh, z, score), grads = swiglu_backward(gpu(dh), gpu(z), gpu(score));
  CHECK(close(grads.dz_R2F, cpu_grads.dz_R2F, kBackward, 1));
  CHECK(close(grads.h_RF, cpu_grads.h_RF, kForward, 1));
  REQUIRE(grads.dscore_R.defined() == scored);
  if (scored) CHECK(close(grads.dscore_R, cpu_grads.dscore_R, kForward * F, 1));
}

TEST_CASE("GPU: SwiGLU of gates whose exponentials overflow, underflow or are NaN", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const std::vector<double> gates = {-kInf, -3e38, -1e4, -104, -88.5, -87.5, -20,  -1,   -0.,         0.,
                                     1,     20,    87.5, 88.5, 104,   1e4,   3e38, kInf, std::nan("")};
  const auto gate = at::tensor(gates, at::kDouble).to(dtype).unsqueeze(0), ones = at::ones_like(gate);
  const auto z = at::cat({gate, ones}, 1);
  const auto h = swiglu(gpu(z), {}).cpu().to(at::kDouble);
  const auto dz = swiglu_backward(gpu(ones), gpu(z), {}).dz_R2F.cpu();
  const double rounding = dtype == at::kBFloat16 ? std::ldexp(1, -8) : 0;
  for (size_t i = 0; i < gates.size(); ++i) {
    const auto column = static_cast<int64_t>(i);
    const double g = gate[0][column].item<double>(), exact = g / (1 + std::exp(-g)), ours = h[0][column].item<double>();
    CAPTURE(g, exact, ours);
    if (std::isnan(exact)) CHECK(std::isnan(ours));  // of minus infinity too: it is multiplied by zero
    if (std::isinf(exact)) CHECK(ours == exact);
    if (!std::isfinite(exact)) continue;
    // The error of the sigmoid, two products, and a subnormal sigmoid.
    const double relative = (std::abs(g) + 6) * std::ldexp(1, -23) + rounding;
    CHECK(std::abs(ours - exact) <= relative * std::abs(exact) + std::abs(g) * std::ldexp(1, -126));
    CHECK(std::isfinite(dz[0][column].item<double>()));
    CHECK(std::isfinite(dz[0][column + std::ssize(gates)].item<double>()));
  }
}

TEST_CASE("GPU: the router chooses what the CPU chooses", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const bool renormalize = GENERATE(true, false);
  const auto [N, E, K, U] = GENERATE(table<int64_t, int64_t, int64_t, int64_t>(
      {{0, 8, 2, 1}, {96, 64, 8, 3}, {1000, 6, 3, 1}, {12, 200, 16, 4}, {3, 1, 1, 1}}));
  CAPTURE(dtype, renormalize, N, E, K, U);
  // Halves of small integers: ties are many, and exact in every dtype.
  const auto logits = (random_ids(8, {N, E}, at::kLong, 1).to(at::kDouble) / 2).to(dtype);
  const auto cpu_out = route(logits, K, U, renormalize, {}), out = route(gpu(logits), K, U, renormalize, {});
  CHECK(same_on_gpu(out.ids_NK, cpu_out.ids_NK));
  CHECK(same_on_gpu(out.counts_UE, cpu_out.counts_UE));
  CHECK(close(out.probs_NE, cpu_out.probs_NE, E, 1));  // an exponential
  CHECK(close(out.lse_N, cpu_out.lse_N, E, 2));        // and a logarithm
  CHECK(close(out.scores_NK, cpu_out.scores_NK, E, 1));
  const auto given = route(gpu(logits), K, U, renormalize, out.ids_NK);
  CHECK(same_bits(given.scores_NK.cpu(), out.scores_NK.cpu()));
  CHECK(same_bits(given.counts_UE.cpu(), out.counts_UE.cpu()));
  const auto statistics = statistics_dtype(dtype);
  const auto dscores = normal({N, K}, statistics, 2), lse_scale = at::full({}, 0.3, at::kDouble);
  const auto dprobs = GENERATE(true, false) ? normal({U, E}, statistics, 3) : at::Tensor();
  const RouterOutput same{gpu(cpu_out.probs_NE), gpu(cpu_out.lse_N), gpu(cpu_out.ids_NK), gpu(cpu_out.scores_NK),
                          gpu(cpu_out.counts_UE)};
  CHECK(close(route_backward(gpu(dscores), gpu(dprobs), gpu(lse_scale), same, renormalize),
              route_backward(dscores, dprobs, lse_scale, cpu_out, renormalize), E));
}

TEST_CASE("GPU: sort by expert, gather and combine have the bits of the CPU's", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, K, E, D] = GENERATE(
      table<int64_t, int64_t, int64_t, int64_t>({{0, 2, 4, 8}, {3000, 8, 64, 256}, {50, 3, 1000, 7}, {1, 1, 1, 1}}));
  CAPTURE(dtype, N, K, E, D);
  const auto ids = random_ids(std::max<int64_t>(1, E / 2), {N, K}, at::kInt, 1);  // half of the experts get nothing
  const auto p = sort_by_expert(ids, E), q = sort_by_expert(gpu(ids), E);
  CHECK(same_on_gpu(q.assignment_R, p.assignment_R));
  CHECK(same_on_gpu(q.row_NK, p.row_NK));
  CHECK(same_on_gpu(q.offsets_E, p.offsets_E));
  const auto x = normal({N, D}, dtype, 2), y = normal({N * K, D}, dtype, 3);
  CHECK(same_on_gpu(gather_rows(gpu(x), q), gather_rows(x, p)));
  CHECK(same_on_gpu(combine_rows(gpu(y), q, gpu(x)), combine_rows(y, p, x)));
  CHECK(same_on_gpu(combine_rows(gpu(y), q, {}), combine_rows(y, p, {})));
  const auto v = normal({N, K}, statistics_dtype(dtype), 4);
  CHECK(same_on_gpu(to_rows(gpu(v), q), to_rows(v, p)));
  CHECK(same_on_gpu(to_assignments(to_rows(gpu(v), q), q), v));
}

TEST_CASE("GPU: embedding, and gradients of frequent tokens", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, V, D] =
      GENERATE(table<int64_t, int64_t, int64_t>({{0, 5, 8}, {5000, 3, 64}, {400, 50304, 100}, {9, 1, 1}}));
  CAPTURE(dtype, N, V, D);
  const auto ids = random_ids(V, {N}, at::kLong, 1);
  const auto w = normal({V, D}, dtype, 2), dx = normal({N, D}, dtype, 3);
  CHECK(same_on_gpu(olmoe::kernels::embedding(gpu(ids), gpu(w)), olmoe::kernels::embedding(ids, w)));
  auto dw = normal({V, D}, statistics_dtype(dtype), 4), gpu_dw = gpu(dw), again = gpu(dw);
  embedding_backward(dx, ids, dw);
  embedding_backward(gpu(dx), gpu(ids), gpu_dw);
  CHECK(close(gpu_dw, dw, N));
  embedding_backward(gpu(dx), gpu(ids), again);
  CHECK(same_bits(again.cpu(), gpu_dw.cpu()));
}

TEST_CASE("GPU: cross-entropy and its gradients", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, D, V, chunk] =
      GENERATE(table<int64_t, int64_t, int64_t, int64_t>({{0, 16, 32, 4}, {70, 64, 1000, 32}, {5, 16, 50304, 5}}));
  CAPTURE(dtype, N, D, V, chunk);
  const auto x = normal({N, D}, dtype, 1), w = normal({V, D}, dtype, 2) * 0.1;
  auto targets = random_ids(V, {N}, at::kLong, 3);
  if (N > 2) targets[2] = olmoe::kIgnoredTarget;
  const auto loss = linear_cross_entropy(x, w, targets, chunk);
  // The GEMMs are of different libraries: in bf16 a logit may be rounded differently after each of D additions.
  const double tolerance = 4 * bound(dtype, D + V);
  CHECK(relative_error(linear_cross_entropy(gpu(x), gpu(w), gpu(targets), chunk).cpu(), loss) <= tolerance);
  const auto scale = at::full({}, 0.25, at::kDouble);
  auto dw = at::zeros({V, D}, statistics_dtype(dtype)), gpu_dw = gpu(dw);
  const auto on_cpu = linear_cross_entropy_with_grads(scale, x, w, targets, chunk, dw);
  const auto on_gpu = linear_cross_entropy_with_grads(gpu(scale), gpu(x), gpu(w), gpu(targets), chunk, gpu_dw);
  CHECK(relative_error(on_gpu.loss.cpu(), loss) <= tolerance);
  CHECK(relative_error(on_gpu.dx_ND.cpu(), on_cpu.dx_ND) <= tolerance);
  CHECK(relative_error(gpu_dw.cpu(), dw) <= tolerance);
  const double gamma = 0.05;  // of the z-loss of the logits
  const auto z_on_cpu = linear_cross_entropy_with_grads({scale, gamma}, x, w, targets, chunk, dw);
  const auto z_on_gpu =
      linear_cross_entropy_with_grads({gpu(scale), gamma}, gpu(x), gpu(w), gpu(targets), chunk, gpu_dw);
  CHECK(relative_error(z_on_gpu.z.cpu(), z_on_cpu.z) <= tolerance);
  CHECK(relative_error(z_on_gpu.dx_ND.cpu(), z_on_cpu.dx_ND) <= tolerance);
  CHECK(relative_error(gpu_dw.cpu(), dw) <= tolerance);
}

TEST_CASE("GPU: AdamW and the norm of gradients", "[cuda]") {
  const auto dtype = GENERATE(at::kFloat, at::kDouble);
  const auto copy = GENERATE(0, 1, 2);  // none, the parameters' own dtype, bf16
  const int64_t n = GENERATE(0, 1, 1001, 100003);
  if (copy == 2 && dtype == at::kDouble) return;  // float64 parameters are never rounded to bf16
  CAPTURE(dtype, copy, n);
  const auto rounded = copy == 0 ? at::Tensor() : at::empty({n}, copy == 1 ? dtype : at::kBFloat16);
  const AdamWState s{normal({n}, dtype, 1), normal({n}, dtype, 2), normal({n}, dtype, 3),
                     normal({n}, dtype, 4).square(), rounded};
  const AdamWState g{gpu(s.param), gpu(s.grad), gpu(s.exp_avg), gpu(s.exp_avg_sq), gpu(rounded)};
  const auto factor = at::full({}, GENERATE(0.5, std::numeric_limits<double>::infinity()), at::kDouble);
  CHECK(relative_error(squared_norm(g.grad).cpu(), squared_norm(s.grad)) < 1e-13);
  const at::Tensor constants = adamw_constants({4e-4, 0.9, 0.95, 1e-8, 0.1, 3}, dtype);
  adamw(s, constants, factor);
  adamw(g, gpu(constants), gpu(factor));
  CHECK(close(g.param, s.param, 4));
  CHECK(close(g.exp_avg, s.exp_avg, 4));
  CHECK(close(g.exp_avg_sq, s.exp_avg_sq, 4));
  CHECK(same_on_gpu(g.grad, s.grad));
  if (copy != 0 && std::isfinite(factor.item<double>()))
    CHECK(same_bits(g.rounded.cpu(), g.param.to(g.rounded.dtype()).cpu()));
}

TEST_CASE("GPU: grouped GEMM and its gradients, experts without rows among them", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, K, E, I, O] = GENERATE(table<int64_t, int64_t, int64_t, int64_t, int64_t>(
      {{64, 2, 8, 64, 128}, {0, 2, 4, 32, 32}, {300, 4, 16, 256, 64}, {17, 1, 3, 16, 16}}));
  CAPTURE(dtype, N, K, E, I, O);
  const auto p = sort_by_expert(random_ids(std::max<int64_t>(1, E / 2), {N, K}, at::kInt, 1), E);
  const auto x = normal({N * K, I}, dtype, 2), w = normal({E, O, I}, dtype, 3), dy = normal({N * K, O}, dtype, 4);
  const auto offsets = gpu(p.offsets_E);
  CHECK(close(grouped_gemm(gpu(x), gpu(w), offsets), grouped_gemm(x, w, p.offsets_E), I));
  CHECK(close(grouped_gemm_input_grad(gpu(dy), gpu(w), offsets), grouped_gemm_input_grad(dy, w, p.offsets_E), O));
  auto dw = normal({E, O, I}, statistics_dtype(dtype), 5), gpu_dw = gpu(dw);
  grouped_gemm_weight_grad(dy, x, p.offsets_E, dw);
  grouped_gemm_weight_grad(gpu(dy), gpu(x), offsets, gpu_dw);
  // ATen's GEMM of bf16 operands rounds to bf16 before the addition.
  const double tolerance = dtype == at::kBFloat16 ? 2 * bound(dtype, N * K) : 2 * bound(dw.scalar_type(), N * K);
  CHECK(relative_error(gpu_dw.cpu(), dw) <= tolerance);
  if (E > 1) CHECK(same_bits(gpu_dw[E - 1].cpu(), dw[E - 1]));  // an expert without rows is left alone
  auto added = at::zeros_like(gpu_dw), stored = at::full_like(gpu_dw, std::nan(""));
  grouped_gemm_weight_grad(gpu(dy), gpu(x), offsets, added);
  grouped_gemm_weight_grad(gpu(dy), gpu(x), offsets, stored, GradWrite::store);
  CHECK(at::equal(stored.cpu(), added.cpu()));
}

TEST_CASE("GPU: dense GEMM and its gradients", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [N, I, O] = GENERATE(table<int64_t, int64_t, int64_t>({{100, 64, 96}, {0, 16, 16}, {33, 17, 5}}));
  CAPTURE(dtype, N, I, O);
  const auto x = normal({N, I}, dtype, 1), w = normal({O, I}, dtype, 2), dy = normal({N, O}, dtype, 3);
  CHECK(close(gemm(gpu(x), gpu(w)), gemm(x, w), I));
  CHECK(close(gemm_input_grad(gpu(dy), gpu(w)), gemm_input_grad(dy, w), O));
  auto dw = normal({O, I}, statistics_dtype(dtype), 4), gpu_dw = gpu(dw);
  gemm_weight_grad(dy, x, dw);
  gemm_weight_grad(gpu(dy), gpu(x), gpu_dw);
  CHECK(close(gpu_dw, dw, N));  // fp32 from bf16 operands too: nothing is rounded on the way
  auto added = at::zeros_like(gpu_dw), stored = at::full_like(gpu_dw, std::nan(""));
  gemm_weight_grad(gpu(dy), gpu(x), added);
  gemm_weight_grad(gpu(dy), gpu(x), stored, GradWrite::store);
  CHECK(at::equal(stored.cpu(), added.cpu()));
}

TEST_CASE("GPU: causal attention and its gradients", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [B, S, H, G, d] = GENERATE(table<int64_t, int64_t, int64_t, int64_t, int64_t>(
      {{2, 64, 4, 4, 64}, {1, 130, 4, 2, 128}, {3, 1, 2, 1, 32}, {0, 8, 2, 2, 32}}));
  CAPTURE(dtype, B, S, H, G, d);
  const auto fused = normal({B, S, H + 2 * G, d}, dtype, 1), dy = normal({B, S, H, d}, dtype, 2);
  const auto split = [H = H, G = G](const at::Tensor& x) {  // named: clang before 16 captures no binding by itself
    return Qkv{x.narrow(2, 0, H), x.narrow(2, H, G), x.narrow(2, H + G, G)};
  };
  const auto gpu_fused = gpu(fused);
  const auto cpu_out = causal_attention(split(fused)), out = causal_attention(split(gpu_fused));
  // bf16: probabilities are rounded, and once more the output.
  const double tolerance = 2 * bound(dtype, S * d, 4);
  CHECK(relative_error(out.y_BSHd.cpu(), cpu_out.y_BSHd) <= tolerance);
  auto grads = at::zeros_like(fused), gpu_grads = at::zeros_like(gpu_fused);
  causal_attention_backward(dy, split(fused), cpu_out, split(grads));
  causal_attention_backward(gpu(dy), split(gpu_fused), out, split(gpu_grads));
  CHECK(relative_error(gpu_grads.cpu(), grads) <= tolerance);
}
