// The experts of one layer of OLMoE-1B-7B on a GPU, as the model computes them: N tokens (16,384 is a micro-batch of
// 4 x 4,096), D 2048, 64 experts of width 1024, top-8, bf16. Values are distributed as in training, since the power and
// so the clock of a GPU depend on them: weights with standard deviation 0.02, normalised inputs.
#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>

#include "kernels/experts.h"
#include "kernels/permute.h"
#include "kernels/router.h"
#include "trainer/device/cuda_device.h"

namespace olmoe::bench {

using namespace olmoe::kernels;

constexpr int64_t kD = 2048, kE = 64, kK = 8, kF = 1024;
constexpr double kForwardFlopsOfToken = 6.0 * kF * kD * kK;
constexpr double kWeightDeviation = 0.02;
constexpr int64_t kForced = -1;  // a `skew`: every expert gets the same number of rows

inline const auto kBf16 = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);

inline at::Tensor normal(at::IntArrayRef sizes, double deviation) {
  return at::empty(sizes, kBf16).normal_(0, deviation);
}

/// Host sync, so that the timer includes the work on the GPU.
inline void finish(const at::Tensor& last) { last.flatten()[0].item(); }

/// Logits [N, E] of a router. `skew` 0: each expert is as likely as any. 1: they fall from expert to expert, and the
/// busiest gets some three times the mean, as in the first layer of the trained model on web text. kForced: token t
/// chooses the experts (t + 8 k) mod 64.
inline at::Tensor logits(int64_t N, int64_t skew) {
  const auto fp32 = kBf16.dtype(at::kFloat);
  const auto experts = at::arange(kE, fp32);
  const auto noise_NE = at::empty({N, kE}, fp32).normal_();
  if (skew != kForced) return noise_NE - experts * (0.03 * static_cast<double>(skew));
  const auto chosen_NE = at::remainder(experts - at::arange(N, fp32).unsqueeze(1), static_cast<double>(kE / kK)) == 0;
  return noise_NE + chosen_NE.to(at::kFloat) * 100;
}

struct Layer {
  Layer(int64_t fused, int64_t N, int64_t skew)
      : kernels(fused ? ExpertKernels::fused : ExpertKernels::unfused),
        x_ND(normal({N, kD}, 1)),
        dy_ND(normal({N, kD}, 1)),
        gate_up(normal({kE, 2 * kF, kD}, kWeightDeviation)),
        down(normal({kE, kD, kF}, kWeightDeviation)),
        dgate_up(at::zeros({kE, 2 * kF, kD}, kBf16.dtype(at::kFloat))),
        ddown(at::zeros({kE, kD, kF}, kBf16.dtype(at::kFloat))) {
    routed = route(logits(N, skew), kK, 1, false, {});
    busiest = routed.counts_UE.max().item<int64_t>() / (static_cast<double>(N * kK) / kE);
  }
  at::Tensor forward() {
    permutation = sort_by_expert(routed.ids_NK, kE);
    scores_R = to_rows(routed.scores_NK, permutation);
    z_R2F.reset();  // frees that of the previous run
    const auto up = experts_up(kernels, x_ND, {permutation, scores_R}, gate_up);
    z_R2F = up.z_R2F;
    return combine_rows(experts_down(kernels, up.h_RF, permutation, down), permutation, {});
  }
  at::Tensor backward() {
    const auto d = experts_down_backward(kernels, dy_ND, {permutation, scores_R}, z_R2F, down, ddown);
    experts_up_weight_grad(kernels, d.dz_R2F, x_ND, permutation, dgate_up);
    return combine_rows(experts_up_input_grad(kernels, d.dz_R2F, permutation, gate_up), permutation, {});
  }

  ExpertKernels kernels;
  at::Tensor x_ND, dy_ND, gate_up, down, dgate_up, ddown, scores_R, z_R2F;
  RouterOutput routed;
  Permutation permutation;
  double busiest;  ///< rows of the busiest expert over the mean
};

template <typename Run>
void time_runs(benchmark::State& state, double flops, const Run& run) {
  for (int warm_up = 0; warm_up < 3; ++warm_up) finish(run());
  for (auto _ : state) finish(run());
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

inline bool has_fused() {
  const auto facts = olmoe::cuda::gpu_facts(0);
  return fused_experts_built_in() && facts.major == 9 && facts.minor == 0;
}

}  // namespace olmoe::bench
