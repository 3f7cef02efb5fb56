// The experts of one layer of OLMoE-1B-7B on a GPU, as the model computes them: T tokens (16,384 is a micro-batch of
// 4 x 4,096), d 2048, 64 experts of width 1024, top-8, bf16; and cuBLAS beside them. FLOP/s count the products alone,
// 6 T n d K forward and 12 T n d K backward, though gathering, SwiGLU and combining are timed too. fused:
// train.expert_kernels. Values are drawn as in training, for the power and so the clock of a GPU depend on them:
// weights of deviation 0.02, inputs that a norm has scaled to 1.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>

#include <utility>
#include <vector>

#include "kernels/experts.h"
#include "kernels/permute.h"
#include "kernels/router.h"
#include "trainer/device/cuda_device.h"

namespace {

using namespace olmoe::kernels;

constexpr int64_t kD = 2048, kE = 64, kK = 8, kF = 1024;
constexpr double kForwardFlopsOfToken = 6.0 * kF * kD * kK;
constexpr double kWeightDeviation = 0.02;
constexpr int64_t kForced = -1;  // a skew: every expert gets the same number of rows

const auto kBf16 = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);

at::Tensor normal(at::IntArrayRef sizes, double deviation) { return at::empty(sizes, kBf16).normal_(0, deviation); }

/// The host waits until the GPU is done, as a timer must.
void finish(const at::Tensor& last) { last.flatten()[0].item(); }

/// Logits [T, E] of a router. `skew` 0: each expert is as likely as any. 1: they fall from expert to expert, and the
/// busiest gets some three times the mean, as in the first layer of the trained model on web text. kForced: token t
/// chooses the experts (t + 8 k) mod 64.
at::Tensor logits(int64_t T, int64_t skew) {
  const auto fp32 = kBf16.dtype(at::kFloat);
  const auto experts = at::arange(kE, fp32);
  const auto noise_TE = at::empty({T, kE}, fp32).normal_();
  if (skew != kForced) return noise_TE - experts * (0.03 * static_cast<double>(skew));
  const auto chosen_TE = at::remainder(experts - at::arange(T, fp32).unsqueeze(1), static_cast<double>(kE / kK)) == 0;
  return noise_TE + chosen_TE.to(at::kFloat) * 100;
}

struct Layer {
  Layer(int64_t fused, int64_t T, int64_t skew)
      : kernels(fused ? ExpertKernels::fused : ExpertKernels::unfused),
        x_TD(normal({T, kD}, 1)),
        dy_TD(normal({T, kD}, 1)),
        gate_up(normal({kE, 2 * kF, kD}, kWeightDeviation)),
        down(normal({kE, kD, kF}, kWeightDeviation)),
        dgate_up(at::zeros({kE, 2 * kF, kD}, kBf16.dtype(at::kFloat))),
        ddown(at::zeros({kE, kD, kF}, kBf16.dtype(at::kFloat))) {
    routed = route(logits(T, skew), kK, 1, false, {});
    busiest = routed.counts_GE.max().item<int64_t>() / (static_cast<double>(T * kK) / kE);
  }
  at::Tensor forward() {
    order = sort_by_expert(routed.ids_TK, kE);
    scores_R = to_rows(routed.scores_TK, order);
    z_R2F.reset();  // the last one's memory
    const auto up = experts_up(kernels, x_TD, {order, scores_R}, gate_up);
    z_R2F = up.z_R2F;
    return combine_rows(experts_down(kernels, up.h_RF, order, down), order, {});
  }
  at::Tensor backward() {
    const auto d = experts_down_backward(kernels, dy_TD, {order, scores_R}, z_R2F, down, ddown);
    experts_up_weight_grad(kernels, d.dz_R2F, x_TD, order, dgate_up);
    return combine_rows(experts_up_input_grad(kernels, d.dz_R2F, order, gate_up), order, {});
  }

  ExpertKernels kernels;
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

bool has_fused() {
  const auto facts = olmoe::cuda::gpu_facts(0);
  return fused_experts_built_in() && facts.major == 9 && facts.minor == 0;
}

/// Times `run`, of a layer after its forward, which computes `share` of the forward's products.
template <typename Run>
void time_layer(benchmark::State& state, double share, Run run) {
  if (state.range(0) == 1 && !has_fused()) return state.SkipWithError("no fused kernels for this GPU in this program");
  Layer layer(state.range(0), state.range(1), state.range(2));
  state.counters["busiest"] = layer.busiest;
  layer.forward();
  time_runs(state, kForwardFlopsOfToken * static_cast<double>(state.range(1)) * share, [&] { return run(layer); });
}

void cuda_moe_layer_forward(benchmark::State& state) {
  time_layer(state, 1, [](Layer& layer) { return layer.forward(); });
}

void cuda_moe_layer_backward(benchmark::State& state) {
  time_layer(state, 2, [](Layer& layer) { return layer.backward(); });
}

// The parts that train.expert_kernels chooses.

void cuda_experts_up(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    return experts_up(layer.kernels, layer.x_TD, {layer.order, layer.scores_R}, layer.gate_up).h_RF;
  });
}

void cuda_experts_down(benchmark::State& state) {
  time_layer(state, 1 / 3., [h_RF = at::Tensor()](Layer& layer) mutable {
    if (!h_RF.defined()) h_RF = layer.z_R2F.narrow(1, 0, kF).contiguous();
    return experts_down(layer.kernels, h_RF, layer.order, layer.down);
  });
}

void cuda_experts_up_input_grad(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    return experts_up_input_grad(layer.kernels, layer.z_R2F, layer.order, layer.gate_up);
  });
}

void cuda_experts_down_backward(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    const ScoredRows rows{layer.order, layer.scores_R};
    return experts_down_backward(layer.kernels, layer.dy_TD, rows, layer.z_R2F, layer.down, layer.ddown).dz_R2F;
  });
}

void cuda_experts_up_weight_grad(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    experts_up_weight_grad(layer.kernels, layer.z_R2F, layer.x_TD, layer.order, layer.dgate_up);
    return layer.dgate_up;
  });
}

/// The rate of this GPU on one large product: what the layer's is to be seen beside.
void cuda_cublas(benchmark::State& state) {
  const auto a = normal({8192, 8192}, 1), b = normal({8192, 8192}, kWeightDeviation);
  time_runs(state, 2.0 * 8192 * 8192 * 8192, [&] { return at::mm(a, b.t()); });
}

/// Unfused and fused, for so many tokens, in these kinds of routing.
void both_kernels(benchmark::internal::Benchmark* run, std::vector<int64_t> tokens, std::vector<int64_t> skews) {
  run->ArgNames({"fused", "T", "skew"})
      ->ArgsProduct({{0, 1}, std::move(tokens), std::move(skews)})
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}
void whole_layer(benchmark::internal::Benchmark* run) { both_kernels(run, {16384, 32768}, {kForced, 0, 1}); }
void one_part(benchmark::internal::Benchmark* run) { both_kernels(run, {16384}, {0, 1}); }

BENCHMARK(cuda_moe_layer_forward)->Apply(whole_layer);
BENCHMARK(cuda_moe_layer_backward)->Apply(whole_layer);
BENCHMARK(cuda_experts_up)->Apply(one_part);
BENCHMARK(cuda_experts_down)->Apply(one_part);
BENCHMARK(cuda_experts_up_input_grad)->Apply(one_part);
BENCHMARK(cuda_experts_down_backward)->Apply(one_part);
BENCHMARK(cuda_experts_up_weight_grad)->Apply(one_part);
BENCHMARK(cuda_cublas)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
