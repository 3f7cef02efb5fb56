// Cost of the gather and the epilogue in the fused kernels of the experts (bench/moe_layer.h; N 16,384, natural
// routing): each kernel as it is, and with parts removed. FLOP/s count its GEMM.
//   as_is            weight gradients are added
//   identity_tokens  assignments are already sorted by expert, so that row r is of token r / K: the rows that a tile
//                    gathers are contiguous, each K times. Experts have as many rows as before.
//   empty_epilogue   results are discarded, and the operands of the epilogue are not read
//   stored           weight gradients are stored
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/sort.h>

#include "bench/moe_layer.h"
#include "kernels/hopper/down_backward.cuh"
#include "kernels/hopper/up_projection.cuh"
#include "kernels/hopper/weight_grads.cuh"

namespace {

using namespace olmoe::bench;
using namespace olmoe::kernels::hopper;

constexpr int64_t kN = 16384, kR = kN * kK;
constexpr double kUpFlops = kForwardFlopsOfToken * kN * 2 / 3, kDownFlops = kUpFlops / 2;
enum class Form { as_is, identity_tokens, empty_epilogue, stored };

/// Would write the results to `to`. It is null, which the compiler does not know, so that it keeps the GEMM.
struct EmptyEpilogue {
  float* to;

  template <class Values>
  __device__ void finish(const TileCursor&, const Values& values, int, Element*) const {
    if (to == nullptr) return;
#pragma unroll
    for (int i = 0; i < kValuesPerThread; ++i) to[i * kMultiplyingThreads + threadIdx.x] = values(i);
  }
};

template <class Gemm>
struct WithoutEpilogue : Gemm {
  struct Params : Gemm::Params {
    EmptyEpilogue epilogue;  ///< in place of the other
  };
  static __device__ void prefetch(const Params&, const TileCursor&, int) {}
};

/// A layer after its forward, and the results of its kernels.
struct Operands {
  explicit Operands(Form form) : layer(/*fused=*/1, kN, /*skew=*/0) {
    auto& ids_NK = layer.routed.ids_NK;
    if (form == Form::identity_tokens) ids_NK = std::get<0>(at::sort(ids_NK.flatten())).view({kN, kK});
    layer.forward();
    up = experts_up(layer.kernels, layer.x_ND, rows(), layer.gate_up);
    const auto fp32 = layer.scores_R.options();
    grads = {at::empty_like(up.z_R2F), at::empty_like(up.h_RF), at::empty({kR}, fp32)};
    partial_dscores = at::empty({kR, kF / kTileN}, fp32);
  }
  ScoredRows rows() const { return {layer.permutation, layer.scores_R}; }
  bool in_sequence() const {
    const auto& assignment_R = layer.permutation.assignment_R;
    return at::equal(assignment_R, at::arange(kR, assignment_R.options()));
  }

  Layer layer;
  ExpertsUp up;
  SwigluGrads grads;
  at::Tensor partial_dscores;
};

/// Times a launch with the parameters params_of(operands).
template <class Gemm, typename ParamsOf>
void time_kernel(benchmark::State& state, Form form, double flops, const ParamsOf& params_of) {
  if (!has_fused()) return state.SkipWithError("no fused kernels for this GPU in this program");
  Operands operands(form);
  if (operands.in_sequence() != (form == Form::identity_tokens)) return state.SkipWithError("rows in another order");
  const typename Gemm::Params params = params_of(operands);
  const auto& x_ND = operands.layer.x_ND;
  time_runs(state, flops, [&] {
    if (form == Form::empty_epilogue)
      launch<WithoutEpilogue<Gemm>>({params, {.to = nullptr}}, kR, x_ND);
    else
      launch<Gemm>(params, kR, x_ND);
    return x_ND;  // of the same stream
  });
}

GradWrite write_of(Form form) { return form == Form::stored ? GradWrite::store : GradWrite::add; }

void ablation_up(benchmark::State& state, Form form) {
  time_kernel<UpProjection>(state, form, kUpFlops, [](Operands& o) {
    return UpProjection::params(o.layer.x_ND, o.rows(), o.layer.gate_up, o.up);
  });
}

void ablation_down_backward(benchmark::State& state, Form form) {
  time_kernel<DownBackward>(state, form, kDownFlops, [](Operands& o) {
    return DownBackward::params(o.layer.dy_ND, o.rows(), o.layer.z_R2F, o.layer.down, o.grads, o.partial_dscores);
  });
}

void ablation_down_gradient(benchmark::State& state, Form form) {
  time_kernel<WeightGrad<false>>(state, form, kDownFlops, [form](Operands& o) {
    return WeightGrad<false>::params(o.layer.dy_ND, o.layer.permutation, o.up.h_RF, o.layer.ddown, write_of(form));
  });
}

void ablation_up_gradient(benchmark::State& state, Form form) {
  time_kernel<WeightGrad<true>>(state, form, kUpFlops, [form](Operands& o) {
    return WeightGrad<true>::params(o.layer.x_ND, o.layer.permutation, o.layer.z_R2F, o.layer.dgate_up, write_of(form));
  });
}

void in_ms(benchmark::internal::Benchmark* run) { run->UseRealTime()->Unit(benchmark::kMillisecond); }

BENCHMARK_CAPTURE(ablation_up, as_is, Form::as_is)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_up, identity_tokens, Form::identity_tokens)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_up, empty_epilogue, Form::empty_epilogue)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_backward, as_is, Form::as_is)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_backward, identity_tokens, Form::identity_tokens)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_backward, empty_epilogue, Form::empty_epilogue)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_gradient, as_is, Form::as_is)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_gradient, identity_tokens, Form::identity_tokens)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_gradient, empty_epilogue, Form::empty_epilogue)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_down_gradient, stored, Form::stored)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_up_gradient, as_is, Form::as_is)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_up_gradient, identity_tokens, Form::identity_tokens)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_up_gradient, empty_epilogue, Form::empty_epilogue)->Apply(in_ms);
BENCHMARK_CAPTURE(ablation_up_gradient, stored, Form::stored)->Apply(in_ms);

}  // namespace
