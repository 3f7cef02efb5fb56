// What is built into nvcc but not into a C++ compiler: the qualifiers, types, variables and intrinsics of CUDA C++ that
// the kernels use. Included before every emulated source (-include).
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "emulation/block.h"
#include "emulation/launch.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)  // rewrite_launches.py hands them to the launches, and declares what is __shared__

struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
inline float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
using cudaError_t = int;

namespace emulation {

/// The value of type T of lane `source`; a fault if that lane took no part.
template <typename T>
T value_of(const LaneValues& values, unsigned source, const Where& where) {
  if (source >= kLanes || (values.lanes >> source & 1) == 0) fail_at(where, "reads a lane that takes no part");
  T value;
  std::memcpy(&value, &values.of_lane[source], sizeof value);
  return value;
}
template <typename T>
const LaneValues& meet(uint32_t mask, const T& value, const Where& where) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return Block::current().exchange(mask, bits, where);
}

}  // namespace emulation

inline void __syncthreads(const emulation::Where& where = emulation::Where::current()) {
  emulation::Block::current().sync_threads(where);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, const emulation::Where& where = emulation::Where::current()) {
  emulation::Block::current().exchange(mask, 0, where);
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, const emulation::Where& where = emulation::Where::current()) {
  return emulation::value_of<T>(emulation::meet(mask, value, where), static_cast<unsigned>(source) % 32, where);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, const emulation::Where& where = emulation::Where::current()) {
  const unsigned lane = emulation::Block::current().lane();
  return emulation::value_of<T>(emulation::meet(mask, value, where), lane ^ static_cast<unsigned>(bits), where);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned lanes, const emulation::Where& where = emulation::Where::current()) {
  const unsigned lane = emulation::Block::current().lane();
  return emulation::value_of<T>(emulation::meet(mask, value, where), lane < lanes ? lane : lane - lanes, where);
}
/// The lanes whose value has the same bits.
template <typename T>
uint32_t __match_any_sync(uint32_t mask, T value, const emulation::Where& where = emulation::Where::current()) {
  const unsigned own = emulation::Block::current().lane();
  const emulation::LaneValues& values = emulation::meet(mask, value, where);
  uint32_t same = 0;
  for (unsigned lane = 0; lane < emulation::kLanes; ++lane)
    if ((values.lanes >> lane & 1) != 0 && values.of_lane[lane] == values.of_lane[own]) same |= uint32_t{1} << lane;
  return same;
}
inline int __popc(uint32_t bits) { return std::popcount(bits); }

template <typename T>
T atomicAdd(T* to, T addend) {
  const T before = *to;
  *to = before + addend;
  return before;
}
/// st.global.wb of 8 or 16 bytes to global memory, and to no other.
template <typename T>
requires(sizeof(T) == 8 || sizeof(T) == 16) void __stwb(T* to, const T& value,
                                                        const emulation::Where& where = emulation::Where::current()) {
  emulation::check_global_store(to, sizeof value, where);
  *to = value;
}
