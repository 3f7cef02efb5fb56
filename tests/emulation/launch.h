// A launch: configurations that CUDA refuses are refused; the blocks run one after the other, in random order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

#include "emulation/block.h"
#include "emulation/global_memory.h"
#include "emulation/shared_memory.h"

using cudaStream_t = struct CUstream_st*;

namespace emulation {

/// kernel<<<grid, threads, shared_bytes, stream>>>(args...), as rewrite_launches.py puts it. Throws Fault.
class Launch {
 public:
  /// `bound`: that of __launch_bounds__, or 1,024.
  Launch(std::string kernel, unsigned bound, const dim3& grid, const dim3& threads, size_t shared_bytes = 0,
         cudaStream_t = nullptr);

  /// Launches of this program that began so far.
  static int64_t count() { return counter(); }

  template <typename Kernel, typename... Args>
  void run(const Kernel& kernel, const Args&... args) const {
    (check_argument(args), ...);
    run_blocks([&] { kernel(args...); });  // each thread has its own copies
  }

 private:
  static int64_t& counter();
  template <typename T>
  void check_argument(const T& argument) const {
    if constexpr (std::is_pointer_v<T>) check_pointer(argument);
  }
  void check_pointer(const void* argument) const;
  void run_blocks(const std::function<void()>& body) const;
  [[noreturn]] void refuse(const std::string& why) const;

  std::string kernel_;
  dim3 grid_, threads_;
  size_t shared_bytes_;
};

/// Ends the launch with a Fault that names the place.
[[noreturn]] void fail_at(const Where& where, const std::string& message);
/// Fails unless a vector of `bytes` at `address` is aligned and in global memory.
void check_global_store(const void* address, size_t bytes, const Where& where);

}  // namespace emulation
