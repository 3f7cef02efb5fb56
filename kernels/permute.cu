// Shapes: N tokens, K experts of each, A = N*K assignments, R of them with a row, sorted by expert (stable), D width,
// E experts, c chunks of assignments.
#include <ATen/ops/empty.h>

#include "kernels/cuda_kernels.h"
#include "kernels/permute_index.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kSortWarps = 4;  // per block; few, since each has E counts in shared memory
constexpr unsigned kAllLanes = 0xffffffffu;

struct SortOperands {
  const int32_t* expert_A;  ///< -1: no row
  int64_t A, R;
  int32_t E;
  Chunks chunks;
  int32_t *count_cE,
      *rows_E;  ///< scratch: counts, then rows of the expert in earlier chunks; total rows of each expert
  int32_t *assignment_R, *row_A, *offsets_E;
};

__device__ int64_t sort_chunk() { return static_cast<int64_t>(blockIdx.x) * kSortWarps + threadIdx.x / kWarp; }

/// Each warp counts the assignments to each expert in one chunk.
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
  for (int32_t e = lane; e < s.E; e += kWarp) s.count_cE[c * s.E + e] = count_E[e];
}

/// Each warp replaces the counts of one expert by their exclusive prefix sum over the chunks, and writes their total.
__global__ void __launch_bounds__(kThreads) scan_chunks(SortOperands s) {
  const int32_t lane = threadIdx.x % kWarp, e = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (e >= s.E) return;
  int32_t counts[kChunksPerLane], sum = 0;
#pragma unroll
  for (int i = 0; i < kChunksPerLane; ++i) {
    const int64_t c = lane * kChunksPerLane + i;
    counts[i] = c < s.chunks.count ? s.count_cE[c * s.E + e] : 0;
    sum += counts[i];
  }
  const int32_t up_to_here = warp_running_sum(sum);
  int32_t before = up_to_here - sum;
#pragma unroll
  for (int i = 0; i < kChunksPerLane; ++i) {
    const int64_t c = lane * kChunksPerLane + i;
    if (c < s.chunks.count) s.count_cE[c * s.E + e] = before;
    before += counts[i];
  }
  if (lane == kWarp - 1) s.rows_E[e] = up_to_here;
}

/// The first row of chunk c for each expert, into next_E. Chunk 0 also writes offsets_E.
__device__ void find_next_rows(const SortOperands& s, int64_t c, int32_t lane, int32_t* next_E) {
  int32_t before = 0;
  for (int32_t first = 0; first < s.E; first += kWarp) {
    const int32_t e = first + lane, rows = e < s.E ? s.rows_E[e] : 0;
    const int32_t end = before + warp_running_sum(rows);
    if (e < s.E) next_E[e] = end - rows + s.count_cE[c * s.E + e];
    if (e < s.E && c == 0) s.offsets_E[e] = end;
    before = __shfl_sync(kAllLanes, end, kWarp - 1);
  }
  __syncwarp();
}

/// Each warp places the assignments of one chunk, 32 at a time, in order: after earlier ones of the same expert.
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
      __syncwarp();  // all lanes have read next_E before one of them advances it
      if (expert >= 0 && rank == 0) next_E[expert] = row + __popc(peers);
      __syncwarp();
      const int64_t i = tile + j * kWarp;
      if (i >= end) continue;
      s.row_A[i] = expert < 0 ? -1 : row;
      if (expert < 0) continue;
      CUDA_KERNEL_ASSERT(row < s.R);
      s.assignment_R[row] = static_cast<int32_t>(i);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    gather(const T* __restrict__ x, int64_t stride, const int32_t* __restrict__ assignment_R, int64_t R, int32_t K,
           int64_t D, T* __restrict__ out) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (r >= R) return;
  const T* const from = x + assignment_R[r] / K * stride;
  T* const to = out + r * D;
#pragma unroll 8
  for (int64_t j = threadIdx.x % kWarp * N; j < D; j += kWarp * N) store_vector(to + j, load_vector<N>(from + j));
}

template <typename T>
struct CombineOperands {
  const T* __restrict__ y;
  const T* __restrict__ residual;  ///< or null
  const int32_t* __restrict__ row_NK;
  T* __restrict__ out;
  int64_t y_stride, residual_stride, tokens, D;
  int32_t K;
};

/// A warp sums the rows of one token.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) combine(CombineOperands<T> c) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (n >= c.tokens) return;
  const int32_t* const row_K = c.row_NK + n * c.K;
  for (int64_t j = threadIdx.x % kWarp * N; j < c.D; j += kWarp * N) {
    Acc<T> sum[N] = {};
    if (c.residual) {
      const auto part = load_vector<N>(c.residual + n * c.residual_stride + j);
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
    store_vector(c.out + n * c.D + j, out);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    take_elements(const T* __restrict__ values, const int32_t* __restrict__ index, int64_t n, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = index[i] < 0 ? T{} : values[index[i]];
}

}  // namespace

void sort_by_expert(const at::Tensor& ids_NK, Permutation& out) {
  const int64_t A = ids_NK.numel(), E = out.offsets_E.size(0);
  ENSURE(E <= 1024, "sort_by_expert: {} experts, but shared memory holds counts of at most 1024", E);
  if (E == 0) return;
  const Chunks chunks = chunks_of(A);
  const at::Tensor counts_cE = at::empty({chunks.count, E}, ids_NK.options());
  const at::Tensor rows_E = at::empty({E}, ids_NK.options());
  const SortOperands operands{.expert_A = ids_NK.const_data_ptr<int32_t>(),
                              .A = A,
                              .R = out.assignment_R.size(0),
                              .E = static_cast<int32_t>(E),
                              .chunks = chunks,
                              .count_cE = counts_cE.data_ptr<int32_t>(),
                              .rows_E = rows_E.data_ptr<int32_t>(),
                              .assignment_R = out.assignment_R.data_ptr<int32_t>(),
                              .row_A = out.row_NK.data_ptr<int32_t>(),
                              .offsets_E = out.offsets_E.data_ptr<int32_t>()};
  const Launch launch(ids_NK);
  const unsigned blocks = blocks_for(chunks.count, kSortWarps);
  const size_t shared_bytes = kSortWarps * E * sizeof(int32_t);
  count_rows<<<blocks, kSortWarps * kWarp, shared_bytes, launch>>>(operands);
  scan_chunks<<<blocks_for(E, kWarps), kThreads, 0, launch>>>(operands);
  place_rows<<<blocks, kSortWarps * kWarp, shared_bytes, launch>>>(operands);
}

void gather_rows(const at::Tensor& x_ND, const Permutation& permutation, at::Tensor& x_RD) {
  const int64_t R = x_RD.size(0), D = x_RD.size(1), stride = x_ND.stride(0);
  const auto K = static_cast<int32_t>(permutation.row_NK.size(1));
  if (R == 0) return;
  const Launch launch(x_RD);
  const int32_t* const assignment_R = permutation.assignment_R.const_data_ptr<int32_t>();
  for_dtype(x_RD.scalar_type(), [&]<typename T>() {
    const T* const x = x_ND.const_data_ptr<T>();
    T* const out = x_RD.data_ptr<T>();
    for_width<T>(rows_are_vectors(x, D, stride) && rows_are_vectors(out, D, D), [&]<int kWidth>() {
      gather<T, kWidth><<<blocks_for(R, kWarps), kThreads, 0, launch>>>(x, stride, assignment_R, R, K, D, out);
    });
  });
}

void combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_ND,
                  at::Tensor& out_ND) {
  const int64_t tokens = out_ND.size(0), D = out_ND.size(1);
  if (tokens == 0) return;
  const Launch launch(out_ND);
  for_dtype(out_ND.scalar_type(), [&]<typename T>() {
    const CombineOperands<T> c{.y = y_RD.const_data_ptr<T>(),
                               .residual = residual_ND.defined() ? residual_ND.const_data_ptr<T>() : nullptr,
                               .row_NK = permutation.row_NK.const_data_ptr<int32_t>(),
                               .out = out_ND.data_ptr<T>(),
                               .y_stride = y_RD.stride(0),
                               .residual_stride = residual_ND.defined() ? residual_ND.stride(0) : 0,
                               .tokens = tokens,
                               .D = D,
                               .K = static_cast<int32_t>(permutation.row_NK.size(1))};
    const bool vectors = rows_are_vectors(c.y, D, c.y_stride) && rows_are_vectors(c.out, D, D) &&
                         rows_are_vectors(c.residual, D, c.residual_stride);
    for_width<T>(vectors,
                 [&]<int kWidth>() { combine<T, kWidth><<<blocks_for(tokens, kWarps), kThreads, 0, launch>>>(c); });
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
