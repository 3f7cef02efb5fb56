// Attention of one layer of OLMoE-1B-7B on a GPU, as the model computes it: 4 sequences of 4,096 tokens, 16 heads of
// 128, bf16, q, k and v as column ranges of a fused projection. cudnn: train.attention_kernel. deterministic:
// train.deterministic_attention. FLOP/s count the causal half of the GEMMs, 2 B H S^2 d forward and 5 B H S^2 d
// backward.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <benchmark/benchmark.h>

#include "kernels/attention.h"
#include "trainer/device/cuda_device.h"

namespace {

using namespace olmoe::kernels;

constexpr int64_t kB = 4, kS = 4096, kH = 16, kHeadDim = 128;
constexpr double kFlopsOfTwoProducts = 2.0 * kB * kH * kS * kS * kHeadDim;

struct Layer {
  explicit Layer(const AttentionMethod& chosen)
      : method(chosen),
        fused(at::empty({kB, kS, 3 * kH, kHeadDim}, at::device(at::kCUDA).dtype(at::kBFloat16)).normal_()),
        dy(at::empty({kB, kS, kH, kHeadDim}, fused.options()).normal_()),
        dfused(at::empty_like(fused)) {}
  static Qkv split(const at::Tensor& x) { return {x.narrow(2, 0, kH), x.narrow(2, kH, kH), x.narrow(2, 2 * kH, kH)}; }
  void run_forward() { forward = causal_attention(split(fused), method); }
  void run_backward() { causal_attention_backward(dy, split(fused), forward, split(dfused), method); }

  AttentionMethod method;
  at::Tensor fused, dy, dfused;
  AttentionOutput forward;
};

/// Host sync, so that the timer includes the work on the GPU.
void finish(const at::Tensor& last) { last.flatten()[0].item(); }

bool has_cudnn() {
  const auto facts = olmoe::cuda::gpu_facts(0);
  return cudnn_attention_built_in() && facts.major == 9 && facts.minor == 0;
}

template <typename Run>
void time_attention(benchmark::State& state, bool deterministic, double flops, const Run& run) {
  const bool cudnn = state.range(0) == 1;
  if (cudnn && !has_cudnn()) return state.SkipWithError("no cuDNN attention for this GPU in this program");
  Layer layer(make_attention_method(cudnn ? AttentionKernel::cudnn : AttentionKernel::flash, deterministic));
  layer.run_forward();
  for (int warm_up = 0; warm_up < 3; ++warm_up) finish(run(layer));
  for (auto _ : state) finish(run(layer));
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void cuda_attention_forward(benchmark::State& state) {
  time_attention(state, true, kFlopsOfTwoProducts, [](Layer& layer) {
    layer.run_forward();
    return layer.forward.y_BSHd;
  });
}

void cuda_attention_backward(benchmark::State& state) {
  time_attention(state, state.range(1) == 1, 2.5 * kFlopsOfTwoProducts, [](Layer& layer) {
    layer.run_backward();
    return layer.dfused;
  });
}

BENCHMARK(cuda_attention_forward)->ArgName("cudnn")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(cuda_attention_backward)
    ->ArgNames({"cudnn", "deterministic"})
    ->ArgsProduct({{0, 1}, {1, 0}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
