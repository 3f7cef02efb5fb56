// Column sums over rows without atomics: each block sums a chunk of rows, then the sums of the chunks are added in
// order.
#pragma once
#include <ATen/ops/empty.h>

#include "kernels/rows/row_part.cuh"
#include "kernels/rows/row_sums_index.h"

namespace olmoe::kernels::cuda {

/// A thread's columns of the sums of one chunk: in registers if kHeld, else in the chunk's row of global memory.
template <typename A, int kWidth, bool kHeld>
class ColumnSums {
 public:
  __device__ explicit ColumnSums(A* chunk_sums) : sums_(chunk_sums) {}
  /// Once for each item, before its first add().
  __device__ void start(int64_t column) {
    if constexpr (kHeld)
      held_ = {};
    else
      store_vector<kWidth>(sums_ + column, Vector<A, kWidth>{});
  }
  __device__ void add(int64_t column, const Vector<A, kWidth>& addend) {
    Vector<A, kWidth> sum = kHeld ? held_ : load_vector<kWidth>(sums_ + column);
    for (int i = 0; i < kWidth; ++i) sum.values[i] += addend.values[i];
    if constexpr (kHeld)
      held_ = sum;
    else
      store_vector<kWidth>(sums_ + column, sum);
  }
  /// Once for each item, after its last add().
  __device__ void finish(int64_t column) {
    if constexpr (kHeld) store_vector<kWidth>(sums_ + column, held_);
  }

 private:
  A* sums_;
  Vector<A, kWidth> held_;
};

constexpr int kChunkShares = 16;

/// total[j] += the sums of all chunks in column j, in a fixed order: 16 warps each add a run of chunks, then one adds
/// these. A block has 32 columns.
template <typename A>
__global__ void __launch_bounds__(kWarp* kChunkShares)
    add_chunks(const A* chunk_sums, int64_t chunks, int64_t width, A* total) {
  __shared__ A of_share[kChunkShares][kWarp];
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  A sum = 0;
  if (column < width) {
    const Range share = share_of(chunks, threadIdx.y, kChunkShares);
#pragma unroll 8
    for (int64_t c = share.begin; c < share.end; ++c) sum += chunk_sums[c * width + column];
  }
  of_share[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (int i = 1; i < kChunkShares; ++i) sum += of_share[i][threadIdx.x];
  total[column] += sum;
}

/// Uninitialised buffer for the sums of the chunks, [chunks, width].
inline at::Tensor empty_chunk_sums(const RowChunks& chunks, const at::Tensor& total) {
  return at::empty({chunks.chunks(), total.numel()}, total.options());
}

/// Adds the sums of all chunks to `total`, in order.
template <typename A>
void add_chunk_sums(const at::Tensor& chunk_sums, at::Tensor& total) {
  const int64_t width = total.numel();
  add_chunks<A><<<blocks_for(width, kWarp), dim3(kWarp, kChunkShares), 0, Launch(total)>>>(
      chunk_sums.const_data_ptr<A>(), chunk_sums.size(0), width, total.data_ptr<A>());
}

}  // namespace olmoe::kernels::cuda
