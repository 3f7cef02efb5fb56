// Shapes: N tokens, E experts, K experts of each token, U groups of N/U consecutive tokens. A warp has one token: its
// lane l holds the values of experts l, l + 32, ... in V registers.
#include <cmath>
#include <limits>

#include "kernels/cuda_kernels.h"
#include "kernels/router_index.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename A>
constexpr A kLowest = -std::numeric_limits<A>::infinity();

/// Calls f.operator()<V>(), V the number of values that each lane holds of a row of E.
template <typename F>
void for_values_per_lane(int64_t E, const F& f) {
  ENSURE(E <= 1024, "router: {} experts, but at most 1024 fit the registers of a warp", E);
  if (E <= 32) return f.template operator()<1>();
  if (E <= 64) return f.template operator()<2>();
  if (E <= 128) return f.template operator()<4>();
  if (E <= 256) return f.template operator()<8>();
  if (E <= 512) return f.template operator()<16>();
  f.template operator()<32>();
}

template <typename T>
struct RouteOperands {
  const T* logits;
  Acc<T>*probs, *lse, *scores;
  int32_t* ids;
  unsigned long long* counts_UE;
  int64_t stride, group_size;
  int32_t E, K;
  bool choose, renormalize;
};

/// Softmax of a row into the warp's registers (zero past the last expert); returns the logsumexp.
template <int V, typename T>
__device__ Acc<T> softmax(const T* logits, int32_t E, int32_t lane, Acc<T> (&probs)[V]) {
  Acc<T> highest = kLowest<Acc<T>>, sum = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int32_t e = lane + i * kWarp;
    probs[i] = e < E ? load(logits[e]) : kLowest<Acc<T>>;
    highest = probs[i] > highest ? probs[i] : highest;
  }
  highest = warp_max(highest);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    probs[i] = lane + i * kWarp < E ? fast_exp(probs[i] - highest) : 0;
    sum += probs[i];
  }
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < V; ++i) probs[i] /= sum;
  return highest + std::log(sum);
}

/// Writes the top K experts in order, by K argmax reductions. `keys`: the probabilities, overwritten. NaN sorts after
/// every probability; experts already taken and padding sort last, and are never reached since K <= E.
template <int V, typename A>
__device__ void choose_top_k(A (&keys)[V], int32_t E, int32_t K, int32_t lane, int32_t* ids) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (!(keys[i] >= 0)) keys[i] = -1;
    if (lane + i * kWarp >= E) keys[i] = kLowest<A>;
  }
  for (int32_t k = 0; k < K; ++k) {
    A best = kLowest<A>;
    int32_t id = E;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int32_t e = lane + i * kWarp;
      if (!chosen_before(keys[i], e, best, id)) continue;
      best = keys[i];
      id = e;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(kAllLanes, best, offset);
      const int32_t other_id = __shfl_xor_sync(kAllLanes, id, offset);
      if (!chosen_before(other, other_id, best, id)) continue;
      best = other;
      id = other_id;
    }
    if (lane == 0) ids[k] = id;
#pragma unroll
    for (int i = 0; i < V; ++i)
      if (lane + i * kWarp == id) keys[i] = kLowest<A>;
  }
}

/// Scores of token n from its ids and probabilities in memory, and its contribution to the counts of the block.
template <typename T>
__device__ void take_scores(const RouteOperands<T>& r, int64_t n, int32_t* count_E) {
  const int32_t lane = threadIdx.x % kWarp;
  const int32_t* const ids = r.ids + n * r.K;
  const Acc<T>* const probs = r.probs + n * r.E;
  Acc<T>* const scores = r.scores + n * r.K;
  Acc<T> sum = 0;
  for (int32_t k = lane; k < r.K; k += kWarp) {
    CUDA_KERNEL_ASSERT(ids[k] >= 0 && ids[k] < r.E);
    sum += probs[ids[k]];
  }
  const Acc<T> divisor = r.renormalize ? warp_sum(sum) : 1;
  for (int32_t k = lane; k < r.K; k += kWarp) {
    scores[k] = probs[ids[k]] / divisor;
    atomicAdd(count_E + ids[k], 1);
  }
}

/// A block has one run of tokens of one group.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads) route_run(RouteOperands<T> r) {
  extern __shared__ int32_t count_E[];
  for (int32_t e = threadIdx.x; e < r.E; e += kThreads) count_E[e] = 0;
  __syncthreads();
  const int32_t lane = threadIdx.x % kWarp;
  const TokenRun run = token_run(blockIdx.x, r.group_size);
  for (int64_t n = run.begin + threadIdx.x / kWarp; n < run.end; n += kWarps) {
    Acc<T> probs[V];
    Acc<T>* const probs_out = r.probs + n * r.E;
    const Acc<T> lse = softmax(r.logits + n * r.stride, r.E, lane, probs);
    if (lane == 0) r.lse[n] = lse;
#pragma unroll
    for (int i = 0; i < V; ++i)
      if (lane + i * kWarp < r.E) probs_out[lane + i * kWarp] = probs[i];
    if (r.choose) choose_top_k(probs, r.E, r.K, lane, r.ids + n * r.K);
    __syncwarp();  // ids and probabilities of other lanes are read from memory
    take_scores(r, n, count_E);
  }
  __syncthreads();
  for (int32_t e = threadIdx.x; e < r.E; e += kThreads)
    if (count_E[e] > 0) atomicAdd(r.counts_UE + run.group * r.E + e, static_cast<unsigned long long>(count_E[e]));
}

template <typename P>
struct BackwardOperands {
  const P *dscores, *dprobs_UE, *probs, *lse, *scores;
  const double* lse_scale;
  const int32_t* ids;
  P* dlogits;
  int64_t N, group_size;
  int32_t E, K;
  bool renormalize;
};

/// A warp has one token.
template <typename P, int V>
__global__ void __launch_bounds__(kThreads) route_backward_token(BackwardOperands<P> b) {
  const int32_t lane = threadIdx.x % kWarp;
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (n >= b.N) return;
  const P* const dprobs = b.dprobs_UE ? b.dprobs_UE + n / b.group_size * b.E : nullptr;
  P probs[V], dp[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int32_t e = lane + i * kWarp;
    probs[i] = e < b.E ? b.probs[n * b.E + e] : 0;
    dp[i] = dprobs && e < b.E ? dprobs[e] : 0;
  }
  const Choice<P> choice{b.dscores + n * b.K, b.scores + n * b.K, b.probs + n * b.E, b.ids + n * b.K, b.K};
  const auto shares = score_shares(choice, b.renormalize);
  for (int32_t k = 0; k < b.K; ++k) {
    const P dprob = (choice.dscores[k] - shares.dot) / shares.sum;
    const int32_t id = choice.ids[k];
#pragma unroll
    for (int i = 0; i < V; ++i)
      if (lane + i * kWarp == id) dp[i] += dprob;
  }
  P dot = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) dot += probs[i] * dp[i];
  dot = warp_sum(dot);
  const P dlse = static_cast<P>(*b.lse_scale) * b.lse[n];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int32_t e = lane + i * kWarp;
    if (e < b.E) b.dlogits[n * b.E + e] = probs[i] * (dp[i] - dot + dlse);
  }
}

}  // namespace

void route(const at::Tensor& logits_NE, bool choose, bool renormalize, RouterOutput& out) {
  const int64_t N = logits_NE.size(0), E = logits_NE.size(1), U = out.counts_UE.size(0);
  if (N == 0) return;
  const auto blocks = static_cast<unsigned>(U * runs_per_group(N / U));
  const Launch launch(logits_NE);
  for_dtype(logits_NE.scalar_type(), [&]<typename Element>() {
    const RouteOperands<Element> operands{
        .logits = logits_NE.const_data_ptr<Element>(),
        .probs = out.probs_NE.data_ptr<Acc<Element>>(),
        .lse = out.lse_N.data_ptr<Acc<Element>>(),
        .scores = out.scores_NK.data_ptr<Acc<Element>>(),
        .ids = out.ids_NK.data_ptr<int32_t>(),
        .counts_UE = reinterpret_cast<unsigned long long*>(out.counts_UE.data_ptr<int64_t>()),
        .stride = logits_NE.stride(0),
        .group_size = N / U,
        .E = static_cast<int32_t>(E),
        .K = static_cast<int32_t>(out.ids_NK.size(1)),
        .choose = choose,
        .renormalize = renormalize};
    for_values_per_lane(E, [&]<int kValues>() {
      route_run<Element, kValues><<<blocks, kThreads, E * sizeof(int32_t), launch>>>(operands);
    });
  });
}

void route_backward(const RouterGrads& grads, const RouterOutput& forward, bool renormalize, at::Tensor& dlogits_NE) {
  const int64_t N = dlogits_NE.size(0), E = dlogits_NE.size(1);
  if (N == 0) return;
  const Launch launch(dlogits_NE);
  for_dtype(dlogits_NE.scalar_type(), [&]<typename P>() {
    if constexpr (std::is_same_v<P, Acc<P>>) {
      const BackwardOperands<P> operands{
          .dscores = grads.dscores_NK.const_data_ptr<P>(),
          .dprobs_UE = grads.dprobs_UE.defined() ? grads.dprobs_UE.const_data_ptr<P>() : nullptr,
          .probs = forward.probs_NE.const_data_ptr<P>(),
          .lse = forward.lse_N.const_data_ptr<P>(),
          .scores = forward.scores_NK.const_data_ptr<P>(),
          .lse_scale = grads.lse_scale.const_data_ptr<double>(),
          .ids = forward.ids_NK.const_data_ptr<int32_t>(),
          .dlogits = dlogits_NE.data_ptr<P>(),
          .N = N,
          .group_size = N / forward.counts_UE.size(0),
          .E = static_cast<int32_t>(E),
          .K = static_cast<int32_t>(forward.ids_NK.size(1)),
          .renormalize = renormalize};
      for_values_per_lane(E, [&]<int kValues>() {
        route_backward_token<P, kValues><<<blocks_for(N, kWarps), kThreads, 0, launch>>>(operands);
      });
    }
  });
}

}  // namespace olmoe::kernels::cuda
