// The experts of one layer of OLMoE-1B-7B on a GPU, as the model computes them: 16,384 tokens (a micro-batch of 4 x 4,096),
// d 2048, 64 experts of width 1024, top-8, bf16; and cuBLAS beside them. FLOP/s count the products alone, 6 T n d K forward
// and 12 T n d K backward, though sorting, gathering, SwiGLU and combining are timed too.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>

#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

namespace {

using namespace olmoe::kernels;

constexpr int64_t kT = 16384, kD = 2048, kE = 64, kK = 8, kF = 1024;
constexpr double kForwardFlops = 6.0 * kT * kF * kD * kK;

const auto kBf16 = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);

at::Tensor normal(at::IntArrayRef sizes, double deviation = 1) {
  return at::empty(sizes, kBf16).normal_(0, deviation);
}

/// The host waits until the GPU is done, as a timer must.
void finish(const at::Tensor& last) { last.flatten()[0].item(); }

/// `skew` 0: each expert is as likely as any. Above: logits fall from expert to expert, the busiest gets some three times
/// the mean at 1, as early in training.
struct Layer {
  explicit Layer(int64_t skew)
      : x_TD(normal({kT, kD})), dy_TD(normal({kT, kD})), gate_up(normal({kE, 2 * kF, kD}, 0.02)),
        down(normal({kE, kD, kF}, 0.02)), dgate_up(at::zeros({kE, 2 * kF, kD}, kBf16.dtype(at::kFloat))),
        ddown(at::zeros({kE, kD, kF}, kBf16.dtype(at::kFloat))) {
    const auto fp32 = kBf16.dtype(at::kFloat);
    const auto logits_TE = at::empty({kT, kE}, fp32).normal_() - at::arange(kE, fp32) * (0.03 * static_cast<double>(skew));
    routed = route(logits_TE, kK, 1, false, {});
    busiest = routed.counts_GE.max().item<int64_t>() / (static_cast<double>(kT * kK) / kE);
  }
  at::Tensor forward() {
    order = sort_by_expert(routed.ids_TK, kE);
    scores_R = to_rows(routed.scores_TK, order);
    z_R2F = grouped_gemm(gather_rows(x_TD, order), gate_up, order.offsets_E);
    return combine_rows(grouped_gemm(swiglu(z_R2F, scores_R), down, order.offsets_E), order, {});
  }
  at::Tensor backward() {
    const auto dy_RD = gather_rows(dy_TD, order);
    const auto d = swiglu_backward(grouped_gemm_input_grad(dy_RD, down, order.offsets_E), z_R2F, scores_R);
    grouped_gemm_weight_grad(dy_RD, d.h_RF, order.offsets_E, ddown);
    grouped_gemm_weight_grad(d.dz_R2F, gather_rows(x_TD, order), order.offsets_E, dgate_up);
    return combine_rows(grouped_gemm_input_grad(d.dz_R2F, gate_up, order.offsets_E), order, {});
  }

  at::Tensor x_TD, dy_TD, gate_up, down, dgate_up, ddown, scores_R, z_R2F;
  Router routed;
  Permutation order;
  double busiest;  ///< rows of the busiest expert over the mean
};

template <typename Run>
void time_runs(benchmark::State& state, double flops, const Run& run) {
  for (int warm_up = 0; warm_up < 3; ++warm_up) finish(run());
  for (auto _ : state) finish(run());
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void cuda_moe_layer_forward(benchmark::State& state) {
  Layer layer(state.range(0));
  state.counters["busiest"] = layer.busiest;
  time_runs(state, kForwardFlops, [&] { return layer.forward(); });
}

void cuda_moe_layer_backward(benchmark::State& state) {
  Layer layer(state.range(0));
  layer.forward();
  state.counters["busiest"] = layer.busiest;
  time_runs(state, 2 * kForwardFlops, [&] { return layer.backward(); });
}

/// The rate of this GPU on one large product: what the layer's is to be seen beside.
void cuda_cublas(benchmark::State& state) {
  const auto a = normal({8192, 8192}), b = normal({8192, 8192});
  time_runs(state, 2.0 * 8192 * 8192 * 8192, [&] { return at::mm(a, b.t()); });
}

BENCHMARK(cuda_moe_layer_forward)->ArgName("skew")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(cuda_moe_layer_backward)->ArgName("skew")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(cuda_cublas)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
