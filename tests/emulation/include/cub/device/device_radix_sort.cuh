#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "emulation/global_memory.h"
#include "emulation/launch.h"

namespace cub {

struct DeviceRadixSort {
  /// Stable, by the key's bits [begin_bit, end_bit). Without `memory` it says how much it needs.
  static int SortPairs(void* memory, size_t& memory_bytes, const int32_t* keys_in, int32_t* keys_out,
                       const int32_t* values_in, int32_t* values_out, int n, int begin_bit, int end_bit, cudaStream_t) {
    constexpr size_t kNeeded = 256;
    if (memory == nullptr) return memory_bytes = kNeeded, 0;
    if (memory_bytes < kNeeded) return 1;
    const emulation::GlobalMemory::Access access;
    const uint64_t bits = (uint64_t{1} << end_bit) - (uint64_t{1} << begin_bit);
    const auto key = [&](int i) { return static_cast<uint32_t>(keys_in[i]) & bits; };
    std::vector<int> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key(a) < key(b); });
    for (int i = 0; i < n; ++i) {
      keys_out[i] = keys_in[order[i]];
      values_out[i] = values_in[order[i]];
    }
    return 0;
  }
};

}  // namespace cub
