// CUTLASS's interface of cp.async. Copies complete at once, so that a missing wait is not found.
#pragma once
#include <cstring>

namespace cutlass::arch {

enum class CacheOperation { Always, Global };

/// Copies 16 aligned bytes if `exists`, else writes zeros.
template <int kBytes, CacheOperation>
struct cp_async_zfill {
  cp_async_zfill(void* shared, const void* global, bool exists) {
    static_assert(kBytes == sizeof(uint4));
    auto* const to = static_cast<uint4*>(shared);
    *to = exists ? *static_cast<const uint4*>(global) : uint4{};
  }
};
template <int kBytes, CacheOperation kCache>
struct cp_async : cp_async_zfill<kBytes, kCache> {
  cp_async(void* shared, const void* global) : cp_async_zfill<kBytes, kCache>(shared, global, true) {}
};

}  // namespace cutlass::arch
