#pragma once

/// SIGUSR1, SIGTERM and SIGINT ask the run to save and leave. A signal belongs to the process, so this is the one
/// place with process-wide state.
namespace olmoe::preemption {

void install_handlers();
/// True once one of the signals arrived in this process.
bool requested();

}  // namespace olmoe::preemption
