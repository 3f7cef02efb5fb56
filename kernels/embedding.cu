// Shapes: N tokens, V rows, D width, c chunks of sorted tokens.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "kernels/cuda_kernels.h"
#include "kernels/embedding_index.h"
#include "kernels/rows/row_part.cuh"

namespace olmoe::kernels::cuda {
namespace {

/// Block n has token n.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kMaxRowThreads)
    copy_row(const int64_t* ids, const T* w_VD, int64_t V, int64_t D, T* x_ND) {
  const int64_t n = blockIdx.x;
  CUDA_KERNEL_ASSERT(ids[n] >= 0 && ids[n] < V);
  const T* const from = w_VD + ids[n] * D;
  for_items<false>(D / kWidth, [&](int64_t item) {
    store_vector<kWidth>(x_ND + n * D + item * kWidth, load_vector<kWidth>(from + item * kWidth));
  });
}

__global__ void write_pairs(const int64_t* ids, int64_t N, int64_t V, int32_t* id, int32_t* token) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= N) return;
  CUDA_KERNEL_ASSERT(ids[n] >= 0 && ids[n] < V);
  id[n] = static_cast<int32_t>(ids[n]);
  token[n] = static_cast<int32_t>(n);
}

struct SortedTokens {
  at::Tensor ids_N, tokens_N;  ///< int32; tokens of one id are in ascending order
};

SortedTokens sort_tokens(const at::Tensor& ids_N, int64_t V) {
  const int64_t N = ids_N.numel();
  ENSURE(N <= std::numeric_limits<int32_t>::max() && V <= std::numeric_limits<int32_t>::max(),
         "embedding: {} tokens and {} rows must fit int32", N, V);
  const at::Tensor unsorted = at::empty({2, N}, ids_N.options().dtype(at::kInt)), sorted = at::empty_like(unsorted);
  int32_t *const id = unsorted.data_ptr<int32_t>(), *const sorted_id = sorted.data_ptr<int32_t>();
  constexpr int kThreads = 256;
  const Launch launch(ids_N);
  write_pairs<<<blocks_for(N, kThreads), kThreads, 0, launch>>>(ids_N.const_data_ptr<int64_t>(), N, V, id, id + N);
  size_t size_bytes = 0;
  const auto sort = [&](void* memory) {
    C10_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(memory, size_bytes, id, sorted_id, id + N, sorted_id + N,
                                                   static_cast<int>(N), 0, id_bits(V), launch));
  };
  sort(nullptr);  // sets size_bytes
  const at::Tensor memory = at::empty({static_cast<int64_t>(size_bytes)}, ids_N.options().dtype(at::kByte));
  sort(memory.data_ptr());
  return {sorted.select(0, 0), sorted.select(0, 1)};
}

/// Operands of the sums of rows by id (embedding_index.h). A block has one chunk and up to 512 items of columns.
template <typename T>
struct RunSums {
  SortedIds sorted;
  const int32_t* tokens;
  const T* dx;
  int64_t dx_stride, D;
  Acc<T>* dw;
  /// Partial sums of each chunk: of the run that began in an earlier one (0), of the run that it owns (1).
  Acc<T>* parts_c2D;

  __device__ Acc<T>* part(int64_t chunk, int which) const { return parts_c2D + (chunk * 2 + which) * D; }
};

/// This thread's first column, for a grid of (chunks, blocks of columns).
template <int kWidth>
__device__ int64_t grid_column() {
  return (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
}

template <int kWidth, typename A>
__device__ void add_vector(A* to, Vector<A, kWidth> addend) {
  const auto old = load_vector<kWidth>(to);
  for (int i = 0; i < kWidth; ++i) addend.values[i] = old.values[i] + addend.values[i];
  store_vector<kWidth>(to, addend);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kMaxRowThreads, 1) sum_chunk(RunSums<T> in) {
  const int64_t chunk = blockIdx.x, column = grid_column<kWidth>();
  if (column >= in.D) return;
  const int64_t begin = in.sorted.chunk_begin(chunk), end = in.sorted.chunk_end(chunk);
  const auto row_of = [&](int64_t i) { return load_vector<kWidth>(in.dx + in.tokens[i] * in.dx_stride + column); };
  Vector<Acc<T>, kWidth> sum{};
  auto next = row_of(begin);
  for (int64_t i = begin; i < end; ++i) {
    const auto row = next;
    if (i + 1 < end) next = row_of(i + 1);  // prefetched while this one is summed
    for (int k = 0; k < kWidth; ++k) sum.values[k] += load(row.values[k]);
    if (i + 1 < end && in.sorted.ids[i + 1] == in.sorted.ids[i]) continue;
    if (in.sorted.began_before(chunk, i))
      store_vector<kWidth>(in.part(chunk, 0) + column, sum);
    else if (in.sorted.continues(chunk, i))
      store_vector<kWidth>(in.part(chunk, 1) + column, sum);
    else
      add_vector<kWidth>(in.dw + in.sorted.ids[i] * in.D + column, sum);
    sum = {};
  }
}

/// Runs that span several chunks: the block of the owning chunk adds the partial sums.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kMaxRowThreads) sum_long_run(RunSums<T> in) {
  const int64_t chunk = blockIdx.x, column = grid_column<kWidth>();
  if (column >= in.D || !in.sorted.owns_long_run(chunk)) return;
  const int64_t first = in.sorted.chunk_end(chunk) - 1, last_chunk = in.sorted.last_chunk(first);
  auto sum = load_vector<kWidth>(in.part(chunk, 1) + column);
#pragma unroll 4
  for (int64_t c = chunk + 1; c <= last_chunk; ++c) {
    const auto part = load_vector<kWidth>(in.part(c, 0) + column);
    for (int k = 0; k < kWidth; ++k) sum.values[k] += part.values[k];
  }
  add_vector<kWidth>(in.dw + in.sorted.ids[first] * in.D + column, sum);
}

}  // namespace

void embedding(const at::Tensor& ids_N, const at::Tensor& w_VD, at::Tensor& x_ND) {
  const int64_t N = ids_N.size(0), D = w_VD.size(1);
  if (N == 0) return;
  for_dtype(w_VD.scalar_type(), [&]<typename T>() {
    const T* const w = w_VD.const_data_ptr<T>();
    for_width<T>(rows_are_vectors(w, D, D), [&]<int kWidth>() {
      copy_row<T, kWidth><<<blocks_for_rows(N), threads_for_row(D / kWidth), 0, Launch(w_VD)>>>(
          ids_N.const_data_ptr<int64_t>(), w, w_VD.size(0), D, x_ND.data_ptr<T>());
    });
  });
}

void embedding_backward(const at::Tensor& dx_ND, const at::Tensor& ids_N, at::Tensor& dw_VD) {
  if (ids_N.numel() == 0) return;
  const auto sorted = sort_tokens(ids_N, dw_VD.size(0));
  for_dtype(dx_ND.scalar_type(), [&]<typename T>() {
    const SortedIds ids{sorted.ids_N.const_data_ptr<int32_t>(), ids_N.numel()};
    const at::Tensor parts_c2D = at::empty({ids.chunks(), 2, dx_ND.size(1)}, dw_VD.options());
    const RunSums<T> in{ids,
                        sorted.tokens_N.const_data_ptr<int32_t>(),
                        dx_ND.const_data_ptr<T>(),
                        dx_ND.stride(0),
                        dx_ND.size(1),
                        dw_VD.data_ptr<Acc<T>>(),
                        parts_c2D.data_ptr<Acc<T>>()};
    const bool vectors = rows_are_vectors(in.dx, in.D, in.dx_stride) && rows_are_vectors(in.dw, in.D, in.D);
    for_width<T>(vectors, [&]<int kWidth>() {
      const int threads = threads_for_row(in.D / kWidth);
      const dim3 grid(blocks_for_rows(ids.chunks()), blocks_for(in.D / kWidth, threads));
      sum_chunk<T, kWidth><<<grid, threads, 0, Launch(dx_ND)>>>(in);
      sum_long_run<T, kWidth><<<grid, threads, 0, Launch(dx_ND)>>>(in);
    });
  });
}

}  // namespace olmoe::kernels::cuda
