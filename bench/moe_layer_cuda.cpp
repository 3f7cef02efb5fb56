// The experts of one layer on a GPU (bench/moe_layer.h), and cuBLAS for comparison. FLOP/s count the GEMMs alone,
// 6 N K D F forward and 12 N K D F backward, though gathering, SwiGLU and combining are timed too. fused:
// train.expert_kernels.
#include <ATen/ops/mm.h>

#include <utility>
#include <vector>

#include "bench/moe_layer.h"

namespace {

using namespace olmoe::bench;

/// Times `run` on a layer after its forward; `run` has `share` of the forward's FLOPs.
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
    return experts_up(layer.kernels, layer.x_ND, {layer.permutation, layer.scores_R}, layer.gate_up).h_RF;
  });
}

void cuda_experts_down(benchmark::State& state) {
  time_layer(state, 1 / 3., [h_RF = at::Tensor()](Layer& layer) mutable {
    if (!h_RF.defined()) h_RF = layer.z_R2F.narrow(1, 0, kF).contiguous();
    return experts_down(layer.kernels, h_RF, layer.permutation, layer.down);
  });
}

void cuda_experts_up_input_grad(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    return experts_up_input_grad(layer.kernels, layer.z_R2F, layer.permutation, layer.gate_up);
  });
}

void cuda_experts_down_backward(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    const ScoredRows rows{layer.permutation, layer.scores_R};
    return experts_down_backward(layer.kernels, layer.dy_ND, rows, layer.z_R2F, layer.down, layer.ddown).dz_R2F;
  });
}

void cuda_experts_up_weight_grad(benchmark::State& state) {
  time_layer(state, 2 / 3., [](Layer& layer) {
    experts_up_weight_grad(layer.kernels, layer.z_R2F, layer.x_ND, layer.permutation, layer.dgate_up);
    return layer.dgate_up;
  });
}

/// The rate of this GPU on one large GEMM, for comparison.
void cuda_cublas(benchmark::State& state) {
  const auto a = normal({8192, 8192}, 1), b = normal({8192, 8192}, kWeightDeviation);
  time_runs(state, 2.0 * 8192 * 8192 * 8192, [&] { return at::mm(a, b.t()); });
}

/// Unfused and fused, for these numbers of tokens and kinds of routing.
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
