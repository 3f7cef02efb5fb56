#include "data/guarded_copy.h"

#include <csetjmp>
#include <csignal>
#include <cstring>

namespace olmoe {
namespace {

// SIGBUS comes on the thread whose access failed. A signal belongs to the process, so its handler does.
thread_local sigjmp_buf* way_out = nullptr;

extern "C" void on_bus_error(int signal) {
  if (way_out != nullptr) siglongjmp(*way_out, 1);
  std::signal(signal, SIG_DFL);  // of somebody else's memory: the access is tried again, and ends the process
}

void handle_bus_errors() {
  [[maybe_unused]] static const bool handled = [] {
    struct sigaction action {};
    action.sa_handler = on_bus_error;
    return sigaction(SIGBUS, &action, nullptr) == 0;
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
