// Planted faults that the emulation itself reports. Those that the sanitizers report, and so end the program, are in
// planted_faults.cu.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include <string>

#include "kernels/compare.h"
#include "kernels/rows/launch.cuh"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

at::Tensor gpu_floats(int64_t n) { return at::full({n}, 1, at::TensorOptions().device(at::kCUDA).dtype(at::kFloat)); }

/// What the emulation says of a launch; nothing where it finds no fault.
template <typename F>
std::string fault_of(const F& launch) {
  try {
    launch();
  } catch (const emulation::Fault& fault) {
    return fault.what();
  }
  return "";
}
bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

__global__ void __launch_bounds__(256) nothing(float*) {}

template <bool kBarrier>
__global__ void reverse(float* x) {
  __shared__ float row[256];
  row[threadIdx.x] = x[threadIdx.x];
  if (kBarrier) __syncthreads();
  x[threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}
/// Two results one after the other by way of the same memory, as sums over a block do.
template <bool kBarrier>
__global__ void first_of_warps(float* x) {
  __shared__ float of_warp[8];
  const unsigned warp = threadIdx.x / 32;
  for (int i = 0; i < 2; ++i) {
    if (kBarrier) __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[warp] = x[threadIdx.x] + static_cast<float>(i);
    __syncthreads();
    x[threadIdx.x] = of_warp[7 - warp];
  }
}

__global__ void store_to_shared(float* x) {
  extern __shared__ uint4 row[];
  __stwb(row + threadIdx.x, *reinterpret_cast<const uint4*>(x));
}
__global__ void store_to_stack(float* x) {
  uint4 value = *reinterpret_cast<const uint4*>(x);
  __stwb(&value, value);
}
__global__ void store_past_the_end(float* x, int64_t n) { __stwb(reinterpret_cast<uint4*>(x + n), uint4{}); }
__global__ void store_off_16_bytes(float* x) { __stwb(reinterpret_cast<uint4*>(x + 1), uint4{}); }

__global__ void half_of_a_warp(float* x) {
  x[threadIdx.x] = __shfl_xor_sync(0xffffu, x[threadIdx.x], 1);  // the upper half's mask would be 0xffff0000
}
__global__ void two_masks(float* x) { x[threadIdx.x] = __shfl_sync(threadIdx.x < 16 ? ~0u : ~1u, x[threadIdx.x], 0); }
__global__ void read_a_lane_that_is_not_there(float* x) { x[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 20); }

__global__ void two_barriers(float* x) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    x[threadIdx.x] = 0;
    __syncthreads();
  }
}
__global__ void part_of_a_warp(float* x) {
  if (threadIdx.x != 3) __syncwarp();
  if (threadIdx.x == 3) __syncthreads();
  x[threadIdx.x] = 0;
}

}  // namespace

TEST_CASE("a missing barrier gives wrong results", "[emulation]") {
  const auto result = [](const auto& kernel) {
    const at::Tensor on_gpu = at::arange(256, at::kFloat).to(at::kCUDA);
    kernel(on_gpu.data_ptr<float>());
    return on_gpu.cpu();
  };
  const auto backwards = at::arange(255, -1, -1, at::kFloat);
  int found = 0, found_second = 0;
  const auto right = result([](float* x) { first_of_warps<true><<<1, 256>>>(x); });
  for (int run = 0; run < 10; ++run) {
    CHECK(same_bits(result([](float* x) { reverse<true><<<1, 256>>>(x); }), backwards));
    CHECK(same_bits(result([](float* x) { first_of_warps<true><<<1, 256>>>(x); }), right));
    found += !same_bits(result([](float* x) { reverse<false><<<1, 256>>>(x); }), backwards);
    found_second += !same_bits(result([](float* x) { first_of_warps<false><<<1, 256>>>(x); }), right);
  }
  CHECK(found == 10);
  CHECK(found_second >= 5);
}

TEST_CASE("launches that CUDA refuses are refused", "[emulation]") {
  const at::Tensor x = gpu_floats(1);
  float* const data = x.data_ptr<float>();
  CHECK(fault_of([&] { nothing<<<1, 256>>>(data); }).empty());
  CHECK(fault_of([&] { nothing<<<0, 32>>>(data); }) == "nothing: refused: a grid of 0 x 1 x 1 blocks");
  CHECK(fault_of([&] { nothing<<<dim3(1, 65536), 32>>>(data); }) == "nothing: refused: a grid of 1 x 65536 x 1 blocks");
  CHECK(fault_of([&] { nothing<<<1, 1025>>>(data); }) == "nothing: refused: a block of 1025 x 1 x 1 threads");
  CHECK(fault_of([&] { nothing<<<1, dim3(1, 1, 65)>>>(data); }) == "nothing: refused: a block of 1 x 1 x 65 threads");
  CHECK(fault_of([&] { nothing<<<1, 288>>>(data); }) == "nothing: refused: 288 threads, but its launch bound is 256");
  CHECK(fault_of([&] { nothing<<<1, 32, 49153>>>(data); }) ==
        "nothing: refused: 49153 bytes of shared memory, more than 49152");
  float on_host = 0;
  CHECK(fault_of([&] { nothing<<<1, 32>>>(&on_host); }) ==
        "nothing: refused: an argument points to memory of the host");
}

TEST_CASE("stores by an instruction for global memory alone", "[emulation]") {
  const at::Tensor x = gpu_floats(64);
  float* const data = x.data_ptr<float>();
  CHECK(says(fault_of([&] { store_to_shared<<<1, 32, 512>>>(data); }), "a global store to shared memory"));
  CHECK(says(fault_of([&] { store_to_stack<<<1, 32>>>(data); }), "a global store beside global memory"));
  CHECK(says(fault_of([&] { store_past_the_end<<<1, 1>>>(data, 64); }), "a global store beside global memory"));
  CHECK(says(fault_of([&] { store_past_the_end<<<1, 1>>>(data, 62); }), "a store of 16 bytes is not aligned"));
  CHECK(says(fault_of([&] { store_off_16_bytes<<<1, 1>>>(data); }), "a store of 16 bytes is not aligned"));
  CHECK(fault_of([&] { store_past_the_end<<<1, 1>>>(data, 60); }).empty());
}

TEST_CASE("masks of a warp", "[emulation]") {
  const at::Tensor x = gpu_floats(64);
  float* const data = x.data_ptr<float>();
  const std::string own = fault_of([&] { half_of_a_warp<<<1, 32>>>(data); });
  CHECK(says(own, "half_of_a_warp: "));
  CHECK(says(own, "is not in its own mask 0000ffff"));
  CHECK(says(fault_of([&] { two_masks<<<1, 32>>>(data); }), "lanes of a warp meet with different masks"));
  CHECK(says(fault_of([&] { read_a_lane_that_is_not_there<<<1, 16>>>(data); }), "reads a lane that takes no part"));
}

TEST_CASE("deadlocks, and threads that wait at different barriers", "[emulation]") {
  const at::Tensor x = gpu_floats(64);
  float* const data = x.data_ptr<float>();
  CHECK(says(fault_of([&] { two_barriers<<<1, 64>>>(data); }), "threads of a block wait at different barriers"));
  const std::string deadlock = fault_of([&] { part_of_a_warp<<<1, 32>>>(data); });
  CHECK(says(deadlock, "deadlock: 32 threads have not returned; 1 wait at the barrier of "));
  CHECK(says(deadlock, "lanes fffffff7 of warp 0 wait at "));
  CHECK(says(deadlock, "for lanes 00000008"));
  CHECK(fault_of([&] { nothing<<<1, 32>>>(data); }).empty());  // and the emulation goes on
}
