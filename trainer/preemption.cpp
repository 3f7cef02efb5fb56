#include "trainer/preemption.h"

#include <csignal>

namespace olmoe::preemption {
namespace {

volatile std::sig_atomic_t arrived = 0;

extern "C" void on_signal(int) { arrived = 1; }

}  // namespace

void install_handlers() {
  for (int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;  // a system call in progress goes on; the step ends first
    sigaction(signal, &action, nullptr);
  }
}

bool requested() { return arrived != 0; }

}  // namespace olmoe::preemption
