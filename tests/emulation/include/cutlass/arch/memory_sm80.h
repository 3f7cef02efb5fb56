// cp.async as CUTLASS offers it. A copy is done at once: that it is there too early no emulation can tell.
#pragma once
#include <cstring>

namespace cutlass::arch {

enum class CacheOperation { Always, Global };

/// The source is read where `exists` says so, else the place is zeros. 16 bytes, aligned, as the instruction wants.
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
