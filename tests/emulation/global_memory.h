// The global memory of the emulated GPU: the memory of the tensors on it. Under AddressSanitizer it may be accessed
// only while a kernel or an operator of LibTorch runs on the GPU. An access by the host, which would crash with a real
// GPU, is reported as use-after-poison; an access outside of an allocation as heap-buffer-overflow.
#pragma once
#include <cstddef>
#include <map>

namespace emulation {

class GlobalMemory {
 public:
  static GlobalMemory& of_gpu();

  /// `bytes` that begin at a multiple of 512, as CUDA's allocations do; filled with NaNs.
  void* allocate(size_t bytes);
  void release(void* data);
  /// True if `bytes` from `address` on lie within one allocation.
  bool holds(const void* address, size_t bytes) const;

  /// The memory may be accessed during the lifetime of an Access.
  class Access {
   public:
    Access();
    ~Access();
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;
  };

 private:
  void protect(bool on) const;

  std::map<const char*, size_t> bytes_at_;  ///< size of each allocation, at its address
  int accesses_ = 0;
};

}  // namespace emulation
