// Kernels at two shapes: tiny (8 x 256 tokens, D 256, 16 experts, top-4, width 128) and OLMoE's width (1024 tokens,
// D 2048, 64 experts, top-8, width 1024). ATen's counterparts, where it has one, are timed too. Run with
// OMP_NUM_THREADS set, on an idle machine, and compare minima.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>
#include <malloc.h>

#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

namespace {

using namespace olmoe::kernels;

struct Shape {
  int64_t B, S, H, d, E, K, F, V;
  int64_t N() const { return B * S; }
  int64_t D() const { return H * d; }
  int64_t R() const { return N() * K; }
};
constexpr Shape kShapes[] = {{8, 256, 4, 64, 16, 4, 128, 512}, {1, 1024, 16, 128, 64, 8, 1024, 2048}};

/// The two arguments of each benchmark: 0 tiny, 1 true width; 0 fp32, 1 bf16.
const Shape& shape(const benchmark::State& state) { return kShapes[state.range(0)]; }
at::ScalarType dtype(const benchmark::State& state) { return state.range(1) ? at::kBFloat16 : at::kFloat; }

at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Generator generator = at::detail::createCPUGenerator(1);
  return at::empty(sizes, at::kFloat).normal_(0, 1, generator).to(dtype);
}

void set_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}
void set_bytes(benchmark::State& state, double bytes) {
  state.counters["B/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
}

Permutation permutation_of(const Shape& s) {
  const RouterOutput routed = route(normal({s.N(), s.E}, at::kFloat), s.K, 1, false, {});
  return sort_by_expert(routed.ids_NK, s.E);
}

struct GroupedOperands {
  at::Tensor x_RI, w_EOI, dy_RO, dw_EOI, offsets_E;
};
/// The up projection: I = D inputs, O = 2F outputs.
GroupedOperands grouped_operands(const benchmark::State& state) {
  const Shape& s = shape(state);
  const auto type = dtype(state);
  return {normal({s.R(), s.D()}, type), normal({s.E, 2 * s.F, s.D()}, type), normal({s.R(), 2 * s.F}, type),
          at::zeros({s.E, 2 * s.F, s.D()}), permutation_of(s).offsets_E};
}
double grouped_flops(const benchmark::State& state) {
  const Shape& s = shape(state);
  return 2.0 * s.R() * s.D() * 2 * s.F;
}

void grouped_forward(benchmark::State& state) {
  const GroupedOperands in = grouped_operands(state);
  for (auto _ : state) benchmark::DoNotOptimize(grouped_gemm(in.x_RI, in.w_EOI, in.offsets_E));
  set_flops(state, grouped_flops(state));
}
void grouped_forward_aten(benchmark::State& state) {
  const GroupedOperands in = grouped_operands(state);
  for (auto _ : state) benchmark::DoNotOptimize(at::_grouped_mm(in.x_RI, in.w_EOI.transpose(1, 2), in.offsets_E));
  set_flops(state, grouped_flops(state));
}
void grouped_input_grad(benchmark::State& state) {
  const GroupedOperands in = grouped_operands(state);
  for (auto _ : state) benchmark::DoNotOptimize(grouped_gemm_input_grad(in.dy_RO, in.w_EOI, in.offsets_E));
  set_flops(state, grouped_flops(state));
}
void grouped_input_grad_aten(benchmark::State& state) {
  const GroupedOperands in = grouped_operands(state);
  for (auto _ : state) benchmark::DoNotOptimize(at::_grouped_mm(in.dy_RO, in.w_EOI, in.offsets_E));
  set_flops(state, grouped_flops(state));
}
void grouped_weight_grad(benchmark::State& state) {
  const GroupedOperands in = grouped_operands(state);
  for (auto _ : state) grouped_gemm_weight_grad(in.dy_RO, in.x_RI, in.offsets_E, in.dw_EOI);
  set_flops(state, grouped_flops(state));
}
void grouped_weight_grad_aten(benchmark::State& state) {
  GroupedOperands in = grouped_operands(state);
  for (auto _ : state) in.dw_EOI.add_(at::_grouped_mm(in.dy_RO.t(), in.x_RI, in.offsets_E));
  set_flops(state, grouped_flops(state));
}

/// Causal: half of S x S. Forward 2 GEMMs, backward 5.
double attention_flops(const Shape& s) { return 7.0 * s.B * s.H * s.S * s.S * s.d; }

void attention(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor fused = normal({s.B, s.S, 3 * s.H, s.d}, dtype(state)),
                   dy = normal({s.B, s.S, s.H, s.d}, dtype(state));
  const at::Tensor fused_grad = at::empty_like(fused);
  auto parts = [&](const at::Tensor& x) {
    return Qkv{x.narrow(2, 0, s.H), x.narrow(2, s.H, s.H), x.narrow(2, 2 * s.H, s.H)};
  };
  for (auto _ : state) causal_attention_backward(dy, parts(fused), causal_attention(parts(fused)), parts(fused_grad));
  set_flops(state, attention_flops(s));
}
void attention_aten(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor q = normal({s.B, s.H, s.S, s.d}, dtype(state)), k = q.clone(), v = q.clone(), dy = q.clone();
  for (auto _ : state) {
    const auto [y, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, true);
    benchmark::DoNotOptimize(at::_scaled_dot_product_flash_attention_for_cpu_backward(dy, q, k, v, y, lse, 0.0, true));
  }
  set_flops(state, attention_flops(s));
}

void swiglu_both(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor z = normal({s.R(), 2 * s.F}, dtype(state)), dh = normal({s.R(), s.F}, dtype(state)),
                   score = normal({s.R()}, at::kFloat);
  for (auto _ : state) {
    benchmark::DoNotOptimize(swiglu(z, score));
    benchmark::DoNotOptimize(swiglu_backward(dh, z, score));
  }
  set_bytes(state, 9.0 * s.R() * s.F * z.element_size());
}
void swiglu_forward_aten(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor z = normal({s.R(), 2 * s.F}, dtype(state));
  for (auto _ : state) benchmark::DoNotOptimize(at::silu(z.narrow(1, 0, s.F)).mul(z.narrow(1, s.F, s.F)));
  set_bytes(state, 3.0 * s.R() * s.F * z.element_size());
}

void rms_norm_both(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor x = normal({s.N(), s.D()}, dtype(state)), w = normal({s.D()}, dtype(state)), dw = at::zeros({s.D()});
  for (auto _ : state) benchmark::DoNotOptimize(rms_norm_backward(x, x, w, rms_norm(x, w, 1e-5).rstd_N, dw));
  set_bytes(state, 5.0 * s.N() * s.D() * x.element_size());
}
void rms_norm_forward_aten(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor x = normal({s.N(), s.D()}, dtype(state)), w = normal({s.D()}, dtype(state));
  for (auto _ : state) benchmark::DoNotOptimize(at::rms_norm(x, {s.D()}, w, 1e-5));
  set_bytes(state, 2.0 * s.N() * s.D() * x.element_size());
}

void norm_rotary_both(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor x = normal({s.N(), s.D()}, dtype(state)), w = normal({s.D()}, dtype(state)),
                   table = rotary_table(s.S, s.d, 10000, at::kFloat);
  at::Tensor dx = at::empty(x.sizes(), x.options()), dw = at::zeros({s.D()});
  for (auto _ : state) norm_rotary_backward(x, {x, w, table, {}}, norm_rotary({x, w, table, {}}, 1e-5).rstd_N, dx, dw);
  set_bytes(state, 5.0 * s.N() * s.D() * x.element_size());
}

void gather_and_combine(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor x = normal({s.N(), s.D()}, dtype(state));
  const Permutation permutation = permutation_of(s);
  for (auto _ : state) benchmark::DoNotOptimize(combine_rows(gather_rows(x, permutation), permutation, x));
  set_bytes(state, (3.0 * s.R() + 2.0 * s.N()) * s.D() * x.element_size());
}

void route_both(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor logits = normal({s.N(), s.E}, dtype(state)), dscores = normal({s.N(), s.K}, at::kFloat);
  for (auto _ : state)
    benchmark::DoNotOptimize(
        route_backward(dscores, {}, at::full({}, 0.1, at::kDouble), route(logits, s.K, 1, false, {}), false));
}

void cross_entropy_both(benchmark::State& state) {
  const Shape& s = shape(state);
  const at::Tensor x = normal({s.N(), s.D()}, dtype(state)), w = normal({s.V, s.D()}, dtype(state)),
                   dw = at::zeros({s.V, s.D()});
  const at::Tensor targets = at::zeros({s.N()}, at::kLong);
  for (auto _ : state)
    benchmark::DoNotOptimize(linear_cross_entropy_with_grads(at::ones({}, at::kDouble), x, w, targets, 512, dw).dx_ND);
  set_flops(state, 6.0 * s.N() * s.D() * s.V);
}

/// The experts of a layer as the model computes them; moe_layer_cuda.cpp has OLMoE-1B-7B's size. `skew` as there:
/// logits that fall from expert to expert.
struct MoeLayer {
  explicit MoeLayer(const benchmark::State& state)
      : s(shape(state)),
        x_ND(normal({s.N(), s.D()}, dtype(state))),
        gate_up_E2FD(normal({s.E, 2 * s.F, s.D()}, dtype(state))),
        down_EDF(normal({s.E, s.D(), s.F}, dtype(state))),
        dgate_up_E2FD(at::zeros(gate_up_E2FD.sizes())),
        ddown_EDF(at::zeros(down_EDF.sizes())) {
    const double skew = 0.03 * static_cast<double>(state.range(2));
    routed = route(normal({s.N(), s.E}, at::kFloat) - at::arange(s.E) * skew, s.K, 1, false, {});
  }
  at::Tensor forward() {
    permutation = sort_by_expert(routed.ids_NK, s.E);
    scores_R = to_rows(routed.scores_NK, permutation);
    z_R2F = grouped_gemm(gather_rows(x_ND, permutation), gate_up_E2FD, permutation.offsets_E);
    return combine_rows(grouped_gemm(swiglu(z_R2F, scores_R), down_EDF, permutation.offsets_E), permutation, {});
  }
  /// The output's gradient is x; its values do not matter.
  at::Tensor backward() {
    const auto dy_RD = gather_rows(x_ND, permutation);
    const auto d = swiglu_backward(grouped_gemm_input_grad(dy_RD, down_EDF, permutation.offsets_E), z_R2F, scores_R);
    grouped_gemm_weight_grad(dy_RD, d.h_RF, permutation.offsets_E, ddown_EDF);
    grouped_gemm_weight_grad(d.dz_R2F, gather_rows(x_ND, permutation), permutation.offsets_E, dgate_up_E2FD);
    benchmark::DoNotOptimize(to_assignments(d.dscore_R, permutation));
    return combine_rows(grouped_gemm_input_grad(d.dz_R2F, gate_up_E2FD, permutation.offsets_E), permutation, {});
  }
  /// FLOPs of the forward's grouped GEMMs; the backward has twice as many.
  double flops() const { return 6.0 * s.R() * s.D() * s.F; }
  /// Rows of the busiest expert over the mean.
  double busiest() const { return routed.counts_UE.max().item<int64_t>() * static_cast<double>(s.E) / s.R(); }

  const Shape& s;
  at::Tensor x_ND, gate_up_E2FD, down_EDF, dgate_up_E2FD, ddown_EDF, scores_R, z_R2F;
  RouterOutput routed;
  Permutation permutation;
};

void moe_layer_forward(benchmark::State& state) {
  MoeLayer layer(state);
  for (auto _ : state) benchmark::DoNotOptimize(layer.forward());
  state.counters["busiest"] = layer.busiest();
  set_flops(state, layer.flops());
}
void moe_layer_backward(benchmark::State& state) {
  MoeLayer layer(state);
  layer.forward();
  for (auto _ : state) benchmark::DoNotOptimize(layer.backward());
  state.counters["busiest"] = layer.busiest();
  set_flops(state, 2 * layer.flops());
}

}  // namespace

#define OLMOE_BENCHMARK(function)     \
  BENCHMARK(function)                 \
      ->ArgsProduct({{0, 1}, {0, 1}}) \
      ->ArgNames({"width", "bf16"})   \
      ->UseRealTime()                 \
      ->Unit(benchmark::kMillisecond)

OLMOE_BENCHMARK(grouped_forward);
OLMOE_BENCHMARK(grouped_forward_aten);
OLMOE_BENCHMARK(grouped_input_grad);
OLMOE_BENCHMARK(grouped_input_grad_aten);
OLMOE_BENCHMARK(grouped_weight_grad);
OLMOE_BENCHMARK(grouped_weight_grad_aten);
OLMOE_BENCHMARK(attention);
OLMOE_BENCHMARK(attention_aten);
OLMOE_BENCHMARK(swiglu_both);
OLMOE_BENCHMARK(swiglu_forward_aten);
OLMOE_BENCHMARK(rms_norm_both);
OLMOE_BENCHMARK(rms_norm_forward_aten);
OLMOE_BENCHMARK(norm_rotary_both);
OLMOE_BENCHMARK(gather_and_combine);
OLMOE_BENCHMARK(route_both);
OLMOE_BENCHMARK(cross_entropy_both);

#define OLMOE_LAYER_BENCHMARK(function)       \
  BENCHMARK(function)                         \
      ->ArgsProduct({{0, 1}, {0, 1}, {0, 1}}) \
      ->ArgNames({"width", "bf16", "skew"})   \
      ->UseRealTime()                         \
      ->Unit(benchmark::kMillisecond)

OLMOE_LAYER_BENCHMARK(moe_layer_forward);
OLMOE_LAYER_BENCHMARK(moe_layer_backward);

int main(int argc, char** argv) {
  // As in prepare_process(): attention's backward sets deterministic algorithms, with which cuBLAS refuses to run
  // unless this is set.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  // As in the trainer: freed blocks stay with the process, so that page faults are not measured.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
