#include "trainer/preemption.h"

#include <atomic>
#include <csignal>

namespace olmoe::preemption {
namespace {

// Any thread may be the one that handles the signal.
std::atomic<bool> arrived = false;
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_signal(int) { arrived = true; }

}  // namespace

void install_handlers() {
  for (int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;  // a system call in progress goes on; the step ends first
    sigaction(signal, &action, nullptr);
  }
}

bool requested() { return arrived; }

}  // namespace olmoe::preemption
