#include "data/guarded_copy.h"

#include <csetjmp>
#include <csignal>
#include <cstring>

namespace olmoe {
namespace {

// SIGBUS comes on the thread whose access failed. A signal belongs to the process, so its handler does.
// volatile: nothing else that the compiler sees reads it.
thread_local sigjmp_buf* volatile way_out = nullptr;
struct sigaction handled_before {};

/// Of an access that is not ours, the handler that was there before knows more.
void on_bus_error(int signal, siginfo_t* info, void* context) {
  if (way_out != nullptr && info->si_code > 0) siglongjmp(*way_out, 1);
  if ((handled_before.sa_flags & SA_SIGINFO) != 0) return handled_before.sa_sigaction(signal, info, context);
  ::signal(signal, handled_before.sa_handler);  // the access is tried again, and meets that one
}

void handle_bus_errors() {
  [[maybe_unused]] static const bool handled = [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, &handled_before) == 0;
  }();
}

}  // namespace

bool guarded_copy(std::span<std::byte> out, const std::byte* mapping) {
  handle_bus_errors();
  sigjmp_buf here;
  if (sigsetjmp(here, /*savemask=*/1) != 0) {
    way_out = nullptr;
    return false;
  }
  way_out = &here;
  std::memcpy(out.data(), mapping, out.size());
  way_out = nullptr;
  return true;
}

}  // namespace olmoe
