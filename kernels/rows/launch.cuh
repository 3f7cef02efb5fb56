// Shared by the .cu files: launches on the current stream, vector loads and stores, reductions over warps and blocks.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <bit>
#include <exception>
#include <iterator>
#include <limits>

#include "core/integers.h"
#include "kernels/rows/dtypes.h"

namespace olmoe::kernels::cuda {

constexpr int kWarp = 32;

/// Makes the tensor's device current during its lifetime and converts to the stream to launch on. The destructor throws
/// if a launch failed.
class Launch {
 public:
  explicit Launch(const at::Tensor& x) : guard_(x.device()), stream_(c10::cuda::getCurrentCUDAStream()) {}
  ~Launch() noexcept(false) {
    if (std::uncaught_exceptions() == exceptions_) C10_CUDA_KERNEL_LAUNCH_CHECK();  // not while another one unwinds
  }
  operator cudaStream_t() const { return stream_; }  // NOLINT(google-explicit-constructor): it is passed to <<<>>>

 private:
  c10::cuda::CUDAGuard guard_;
  c10::cuda::CUDAStream stream_;
  int exceptions_ = std::uncaught_exceptions();
};

/// Number of blocks of `threads` threads for `n` elements; at least one, since CUDA refuses an empty grid.
inline unsigned blocks_for(int64_t n, int threads) {
  return static_cast<unsigned>(std::max<int64_t>(1, ceil_div(n, threads)));
}

/// N elements that are loaded or stored together: 16 bytes by one instruction, 32 by two.
template <typename T, int N>
struct alignas(std::min<size_t>(16, sizeof(T) * N)) Vector {
  T values[N];
};
/// Elements of T in 16 bytes.
template <typename T>
constexpr int kVectorWidth = 16 / sizeof(T);

// Through uint4, and stored by the intrinsic: otherwise nvcc sometimes splits a Vector of bf16 into single stores.
template <typename T, int N>
using Words = Vector<uint4, sizeof(T) * N / sizeof(uint4)>;

template <int N, typename T>
__device__ inline Vector<T, N> load_vector(const T* from) {
  if constexpr (sizeof(T) * N % sizeof(uint4) == 0)
    return std::bit_cast<Vector<T, N>>(*reinterpret_cast<const Words<T, N>*>(from));
  else
    return *reinterpret_cast<const Vector<T, N>*>(from);
}
/// Atomic adds to global memory. Subnormal numbers are flushed to zero.
template <int N>
__device__ inline void atomic_add_vector(float* to, const Vector<float, N>& values) {
  static_assert(N == 1 || N == 2);
  if constexpr (N == 2)
    atomicAdd(reinterpret_cast<float2*>(to), std::bit_cast<float2>(values));
  else
    atomicAdd(to, values.values[0]);
}
/// To global memory only: the instruction takes no other address. For shared memory there is SharedArray.
template <int N, typename T>
__device__ inline void store_vector(T* to, const Vector<T, N>& vector) {
  if constexpr (sizeof(T) * N % sizeof(uint4) == 0) {
    const auto words = std::bit_cast<Words<T, N>>(vector);
    for (size_t i = 0; i < std::size(words.values); ++i) __stwb(reinterpret_cast<uint4*>(to) + i, words.values[i]);
  } else if constexpr (sizeof(T) * N == sizeof(uint2)) {
    __stwb(reinterpret_cast<uint2*>(to), std::bit_cast<uint2>(vector));
  } else {
    *reinterpret_cast<Vector<T, N>*>(to) = vector;
  }
}

/// Elements of shared memory, 16-byte aligned. It exposes no pointer, so that its address cannot reach an instruction
/// for global memory.
template <typename T>
class SharedArray {
 public:
  __device__ explicit SharedArray(T* first) : first_(first) {}
  template <int N>
  __device__ Vector<T, N> load(int at) const {
    return load_vector<N>(first_ + at);
  }
  template <int N>
  __device__ void store(int at, const Vector<T, N>& vector) const {
    if constexpr (sizeof(T) * N % sizeof(uint4) == 0)
      *reinterpret_cast<Words<T, N>*>(first_ + at) = std::bit_cast<Words<T, N>>(vector);
    else
      *reinterpret_cast<Vector<T, N>*>(first_ + at) = vector;
  }

 private:
  T* first_;
};

/// True if `data` is aligned to 16 bytes.
inline bool starts_vector(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }
/// True if rows of `row_elements` elements that begin `stride` elements apart can be read 16 bytes at a time.
template <typename T>
bool rows_are_vectors(const T* data, int64_t row_elements, int64_t stride) {
  return starts_vector(data) && row_elements % kVectorWidth<T> == 0 && stride % kVectorWidth<T> == 0;
}

/// Calls f.operator()<N>() with the number of elements of an access: 16 bytes if `vectors`, else one element.
template <typename T, typename F>
void for_width(bool vectors, const F& f) {
  if (vectors) return f.template operator()<kVectorWidth<T>>();
  f.template operator()<1>();
}

template <typename A>
__device__ inline A warp_sum(A value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

/// Maximum over the lanes; no value may be NaN.
template <typename A>
__device__ inline A warp_max(A value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(0xffffffffu, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/// Inclusive prefix sum over the lanes.
template <typename A>
__device__ inline A warp_running_sum(A value) {
  const unsigned lane = threadIdx.x % kWarp;
  for (unsigned offset = 1; offset < kWarp; offset *= 2) {
    const A lower = __shfl_up_sync(0xffffffffu, value, offset);
    if (lane >= offset) value += lower;
  }
  return value;
}

/// Extends a warp's reduction to the block: every thread gets the same value. `neutral`: the operation's identity.
/// blockDim.x must be a multiple of the warp size, at most 1,024.
template <typename A, typename WarpReduce>
__device__ A block_reduce(A value, A neutral, const WarpReduce& warp_reduce) {
  __shared__ A of_warp[kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  value = warp_reduce(value);
  __syncthreads();  // the result of an earlier call may still be read
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return warp_reduce(lane < warps ? of_warp[lane] : neutral);
}
/// Sum over the block, bit-identical in every run.
template <typename A>
__device__ A block_sum(A value) {
  return block_reduce(value, A{0}, [](A part) { return warp_sum(part); });
}
/// Maximum over the block; no value may be NaN.
template <typename A>
__device__ A block_max(A value) {
  return block_reduce(value, -std::numeric_limits<A>::infinity(), [](A part) { return warp_max(part); });
}

}  // namespace olmoe::kernels::cuda
