#include "emulation/global_memory.h"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace emulation {

GlobalMemory& GlobalMemory::of_gpu() {
  static auto* const memory = new GlobalMemory;  // tensors may outlive any static object
  return *memory;
}

void* GlobalMemory::allocate(size_t bytes) {
  constexpr size_t kAlignment = 512;
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, std::max<size_t>(bytes, 1)) != 0) throw std::bad_alloc();
  std::memset(data, 0xff, bytes);  // NaN in every dtype of floats, -1 in those of integers
  bytes_at_[static_cast<const char*>(data)] = bytes;
  if (accesses_ == 0) ASAN_POISON_MEMORY_REGION(data, bytes);
  return data;
}

void GlobalMemory::release(void* data) {
  const auto found = bytes_at_.find(static_cast<const char*>(data));
  ASAN_UNPOISON_MEMORY_REGION(data, found->second);
  bytes_at_.erase(found);
  std::free(data);
}

bool GlobalMemory::holds(const void* address, size_t bytes) const {
  const auto* const begin = static_cast<const char*>(address);
  auto after = bytes_at_.upper_bound(begin);
  if (after == bytes_at_.begin()) return false;
  const auto& [data, size] = *--after;
  return begin + bytes <= data + size;
}

void GlobalMemory::protect(bool on) const {
  for (const auto& [data, bytes] : bytes_at_) {
    if (on)
      ASAN_POISON_MEMORY_REGION(data, bytes);
    else
      ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  }
}

GlobalMemory::Access::Access() {
  if (of_gpu().accesses_++ == 0) of_gpu().protect(false);
}
GlobalMemory::Access::~Access() {
  if (--of_gpu().accesses_ == 0) of_gpu().protect(true);
}

}  // namespace emulation
