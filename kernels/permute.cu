// Shapes: T tokens, K experts for each, A = T*K assignments, R of them with a row, sorted by expert (stable), D width,
// E experts, C chunks of assignments.
#include <ATen/ops/empty.h>

#include "kernels/cuda_kernels.h"
#include "kernels/permute_index.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kSortWarps = 4;  // few, as each has E counts in shared memory
constexpr unsigned kAllLanes = 0xffffffffu;

struct SortOperands {
  const int32_t* expert_A;  ///< -1: no row
  int64_t A, R;
  int32_t E;
  Chunks chunks;
  int32_t *count_CE, *rows_E;  ///< scratch: counts, then rows of the expert in earlier chunks; all rows of each expert
  int32_t *slot_R, *row_A, *offsets_E;
};

__device__ int64_t sort_chunk() { return static_cast<int64_t>(blockIdx.x) * kSortWarps + threadIdx.x / kWarp; }

/// Counts each expert's assignments in one chunk a warp.
__global__ void __launch_bounds__(kSortWarps* kWarp) count_rows(SortOperands s) {
  extern __shared__ int32_t counts[];
  int32_t* const count_E = counts + threadIdx.x / kWarp * s.E;
  const int32_t lane = threadIdx.x % kWarp;
  const int64_t c = sort_chunk(), begin = c * s.chunks.rows, end = std::min(s.A, begin + s.chunks.rows);
  if (c >= s.chunks.count) return;
  for (int32_t e = lane; e < s.E; e += kWarp) count_E[e] = 0;
  __syncwarp();
#pragma unroll 4
  for (int64_t i = begin + lane; i < end; i += kWarp) {
    const int32_t expert = s.expert_A[i];
    CUDA_KERNEL_ASSERT(expert >= (s.R == s.A ? 0 : -1) && expert < s.E);
    if (expert >= 0) atomicAdd(count_E + expert, 1);
  }
  __syncwarp();
  for (int32_t e = lane; e < s.E; e += kWarp) s.count_CE[c * s.E + e] = count_E[e];
}

/// Replaces the counts of one expert a warp by the number of its rows in earlier chunks, and sums them.
__global__ void __launch_bounds__(kThreads) scan_chunks(SortOperands s) {
  const int32_t lane = threadIdx.x % kWarp, e = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (e >= s.E) return;
  int32_t counts[kChunksPerLane], sum = 0;
#pragma unroll
  for (int i = 0; i < kChunksPerLane; ++i) {
    const int64_t c = lane * kChunksPerLane + i;
    counts[i] = c < s.chunks.count ? s.count_CE[c * s.E + e] : 0;
    sum += counts[i];
  }
  const int32_t up_to_here = warp_running_sum(sum);
  int32_t before = up_to_here - sum;
#pragma unroll
  for (int i = 0; i < kChunksPerLane; ++i) {
    const int64_t c = lane * kChunksPerLane + i;
    if (c < s.chunks.count) s.count_CE[c * s.E + e] = before;
    before += counts[i];
  }
  if (lane == kWarp - 1) s.rows_E[e] = up_to_here;
}

/// Where chunk c's next row of each expert goes; chunk 0 says where each expert ends.
__device__ void find_next_rows(const SortOperands& s, int64_t c, int32_t lane, int32_t* next_E) {
  int32_t before = 0;
  for (int32_t first = 0; first < s.E; first += kWarp) {
    const int32_t e = first + lane, rows = e < s.E ? s.rows_E[e] : 0;
    const int32_t end = before + warp_running_sum(rows);
    if (e < s.E) next_E[e] = end - rows + s.count_CE[c * s.E + e];
    if (e < s.E && c == 0) s.offsets_E[e] = end;
    before = __shfl_sync(kAllLanes, end, kWarp - 1);
  }
  __syncwarp();
}

/// Gives each row of one chunk a warp its place, 32 at a time: after those of its expert that came before.
__global__ void __launch_bounds__(kSortWarps* kWarp) place_rows(SortOperands s) {
  extern __shared__ int32_t next_rows[];
  int32_t* const next_E = next_rows + threadIdx.x / kWarp * s.E;
  const int32_t lane = threadIdx.x % kWarp;
  const int64_t c = sort_chunk(), begin = c * s.chunks.rows, end = std::min(s.A, begin + s.chunks.rows);
  if (c >= s.chunks.count) return;
  find_next_rows(s, c, lane, next_E);
  for (int64_t tile = begin + lane; tile - lane < end; tile += kTileRows) {
    int32_t experts[kStepsPerTile];
#pragma unroll
    for (int j = 0; j < kStepsPerTile; ++j) experts[j] = tile + j * kWarp < end ? s.expert_A[tile + j * kWarp] : -1;
#pragma unroll
    for (int j = 0; j < kStepsPerTile; ++j) {
      const int32_t expert = experts[j];
      const uint32_t peers = __match_any_sync(kAllLanes, expert);
      const int rank = rank_among(peers, lane);
      const int32_t row = expert < 0 ? 0 : next_E[expert] + rank;
      __syncwarp();  // all have read what one of them moves on
      if (expert >= 0 && rank == 0) next_E[expert] = row + __popc(peers);
      __syncwarp();
      const int64_t i = tile + j * kWarp;
      if (i >= end) continue;
      s.row_A[i] = expert < 0 ? -1 : row;
      if (expert < 0) continue;
      CUDA_KERNEL_ASSERT(row < s.R);
      s.slot_R[row] = static_cast<int32_t>(i);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    gather(const T* __restrict__ x, int64_t stride, const int32_t* __restrict__ slot_R, int64_t R, int32_t K, int64_t D,
           T* __restrict__ out) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (r >= R) return;
  const T* const from = x + slot_R[r] / K * stride;
  T* const to = out + r * D;
#pragma unroll 8
  for (int64_t j = threadIdx.x % kWarp * N; j < D; j += kWarp * N) store_vector(to + j, load_vector<N>(from + j));
}

template <typename T>
struct CombineOperands {
  const T* __restrict__ y;
  const T* __restrict__ residual;  ///< or null
  const int32_t* __restrict__ row_TK;
  T* __restrict__ out;
  int64_t y_stride, residual_stride, tokens, D;
  int32_t K;
};

/// A warp sums the rows of one token.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) combine(CombineOperands<T> c) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (t >= c.tokens) return;
  const int32_t* const row_K = c.row_TK + t * c.K;
  for (int64_t j = threadIdx.x % kWarp * N; j < c.D; j += kWarp * N) {
    Acc<T> sum[N] = {};
    if (c.residual) {
      const auto part = load_vector<N>(c.residual + t * c.residual_stride + j);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = load(part.values[i]);
    }
#pragma unroll 8
    for (int32_t k = 0; k < c.K; ++k) {
      if (row_K[k] < 0) continue;
      const auto part = load_vector<N>(c.y + row_K[k] * c.y_stride + j);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += load(part.values[i]);
    }
    Vector<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.values[i] = rounded<T>(sum[i]);
    store_vector(c.out + t * c.D + j, out);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    take_elements(const T* __restrict__ values, const int32_t* __restrict__ index, int64_t n, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = index[i] < 0 ? T{} : values[index[i]];
}

}  // namespace

void sort_by_expert(const at::Tensor& ids_TK, Permutation& out) {
  const int64_t A = ids_TK.numel(), E = out.offsets_E.size(0);
  ENSURE(E <= 1024, "sort_by_expert: {} experts, but shared memory was laid out for 1024", E);
  if (E == 0) return;
  const Chunks chunks = chunks_of(A);
  const at::Tensor counts_CE = at::empty({chunks.count, E}, ids_TK.options());
  const at::Tensor rows_E = at::empty({E}, ids_TK.options());
  const SortOperands operands{.expert_A = ids_TK.const_data_ptr<int32_t>(),
                              .A = A,
                              .R = out.slot_R.size(0),
                              .E = static_cast<int32_t>(E),
                              .chunks = chunks,
                              .count_CE = counts_CE.data_ptr<int32_t>(),
                              .rows_E = rows_E.data_ptr<int32_t>(),
                              .slot_R = out.slot_R.data_ptr<int32_t>(),
                              .row_A = out.row_TK.data_ptr<int32_t>(),
                              .offsets_E = out.offsets_E.data_ptr<int32_t>()};
  const Launch launch(ids_TK);
  const unsigned blocks = blocks_for(chunks.count, kSortWarps);
  const size_t shared_bytes = kSortWarps * E * sizeof(int32_t);
  count_rows<<<blocks, kSortWarps * kWarp, shared_bytes, launch>>>(operands);
  scan_chunks<<<blocks_for(E, kWarps), kThreads, 0, launch>>>(operands);
  place_rows<<<blocks, kSortWarps * kWarp, shared_bytes, launch>>>(operands);
}

void gather_rows(const at::Tensor& x_TD, const Permutation& permutation, at::Tensor& x_RD) {
  const int64_t R = x_RD.size(0), D = x_RD.size(1), stride = x_TD.stride(0);
  const auto K = static_cast<int32_t>(permutation.row_TK.size(1));
  if (R == 0) return;
  const Launch launch(x_RD);
  const int32_t* const slot_R = permutation.slot_R.const_data_ptr<int32_t>();
  for_dtype(x_RD.scalar_type(), [&]<typename T>() {
    const T* const x = x_TD.const_data_ptr<T>();
    T* const out = x_RD.data_ptr<T>();
    for_width<T>(rows_are_vectors(x, D, stride) && rows_are_vectors(out, D, D), [&]<int N>() {
      gather<T, N><<<blocks_for(R, kWarps), kThreads, 0, launch>>>(x, stride, slot_R, R, K, D, out);
    });
  });
}

void combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_TD,
                  at::Tensor& out_TD) {
  const int64_t tokens = out_TD.size(0), D = out_TD.size(1);
  if (tokens == 0) return;
  const Launch launch(out_TD);
  for_dtype(out_TD.scalar_type(), [&]<typename T>() {
    const CombineOperands<T> c{.y = y_RD.const_data_ptr<T>(),
                               .residual = residual_TD.defined() ? residual_TD.const_data_ptr<T>() : nullptr,
                               .row_TK = permutation.row_TK.const_data_ptr<int32_t>(),
                               .out = out_TD.data_ptr<T>(),
                               .y_stride = y_RD.stride(0),
                               .residual_stride = residual_TD.defined() ? residual_TD.stride(0) : 0,
                               .tokens = tokens,
                               .D = D,
                               .K = static_cast<int32_t>(permutation.row_TK.size(1))};
    const bool vectors = rows_are_vectors(c.y, D, c.y_stride) && rows_are_vectors(c.out, D, D) &&
                         rows_are_vectors(c.residual, D, c.residual_stride);
    for_width<T>(vectors, [&]<int N>() { combine<T, N><<<blocks_for(tokens, kWarps), kThreads, 0, launch>>>(c); });
  });
}

void take(const at::Tensor& values, const at::Tensor& index, at::Tensor& out) {
  const int64_t n = out.numel();
  if (n == 0) return;
  const Launch launch(out);
  const int32_t* const from = index.const_data_ptr<int32_t>();
  for_dtype(out.scalar_type(), [&]<typename T>() {
    take_elements<<<blocks_for(n, kThreads), kThreads, 0, launch>>>(values.const_data_ptr<T>(), from, n,
                                                                    out.data_ptr<T>());
  });
}

}  // namespace olmoe::kernels::cuda
