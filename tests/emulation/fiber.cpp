#include "emulation/fiber.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

#include <cstdint>
#include <cstring>

// Saves the callee-saved registers on this stack, and continues on another one.
asm(R"(
  .text
  .globl emulation_switch_stack
  .type emulation_switch_stack, @function
emulation_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size emulation_switch_stack, .-emulation_switch_stack
)");
extern "C" void emulation_switch_stack(void** save, void* to);

// A fiber that is abandoned frees nothing.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

namespace emulation {
namespace {

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr size_t kEntryBytes = size_t{4} << 10;  // more than the frames of `entry` and suspend()
constexpr size_t kRegisters = 6;

}  // namespace

void Fiber::start(void (*entry)()) {
  if (!stack_) stack_ = std::make_unique<char[]>(kStackBytes);
  // AddressSanitizer still poisons the frames of the last entry, which never returned.
  ASAN_UNPOISON_MEMORY_REGION(stack_.get() + kStackBytes - kEntryBytes, kEntryBytes);
  auto top = reinterpret_cast<uintptr_t>(stack_.get() + kStackBytes);
  top -= top % 16;
  // As if `entry` had been called with the stack at a multiple of 16: registers, its address, and no caller.
  void* frame[kRegisters + 2] = {};
  frame[kRegisters] = reinterpret_cast<void*>(entry);
  own_ = reinterpret_cast<void*>(top - sizeof frame);
  std::memcpy(own_, frame, sizeof frame);
}

void Fiber::resume() {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack_.get(), kStackBytes);
  emulation_switch_stack(&host_, own_);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void Fiber::suspend(bool forever) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(forever ? nullptr : &fake_stack, host_stack_, host_stack_bytes_);
  emulation_switch_stack(&own_, host_);
  __sanitizer_finish_switch_fiber(fake_stack, &host_stack_, &host_stack_bytes_);
}

void Fiber::entered() { __sanitizer_finish_switch_fiber(nullptr, &host_stack_, &host_stack_bytes_); }

void Fiber::abandon() {
  if (stack_) ASAN_UNPOISON_MEMORY_REGION(stack_.get(), kStackBytes);
}

}  // namespace emulation
