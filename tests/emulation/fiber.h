// A fiber: its own stack, and the callee-saved registers. For x86-64. ucontext would make a system call for the signal
// mask at each switch, and AddressSanitizer's wrapper of it would unpoison the whole stack.
#pragma once
#include <cstddef>
#include <memory>

namespace emulation {

class Fiber {
 public:
  /// `entry` runs at the next resume(), and may never return.
  void start(void (*entry)());
  /// Runs the fiber until it suspends. From outside of all fibers.
  void resume();
  /// To the caller of resume(). From this fiber. `forever`: it will not be resumed.
  void suspend(bool forever = false);
  /// To be called first by `entry`.
  void entered();
  /// Unpoisons the frames of a fiber that will not be resumed.
  void abandon();

 private:
  std::unique_ptr<char[]> stack_;
  void *own_ = nullptr, *host_ = nullptr;  ///< stack pointers of those that are suspended
  const void* host_stack_ = nullptr;
  size_t host_stack_bytes_ = 0;
};

}  // namespace emulation
