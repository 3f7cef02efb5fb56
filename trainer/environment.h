#pragma once
#include <map>
#include <string>

#include "trainer/config.h"

namespace olmoe {

/// Keeps freed memory in the process (pages that go back to the kernel fault again in the next step, which costs more
/// than the arithmetic on them) and enough of oneDNN's generated code. Call first thing in main, once.
void prepare_process();
/// Ranks that the launcher started on this machine, from its environment variables; 1 without a launcher.
int ranks_on_node();
/// Threads of this rank: run.threads, else OMP_NUM_THREADS, else cores / ranks of the node. At least 1.
int choose_threads(int64_t configured, int ranks_on_node);
/// Refuses a device that this build has no code for, and a compute dtype that this CPU would only emulate.
/// Throws ConfigError.
void check_device(const TrainConfig& config);
/// What a result may depend on: CPU features, LibTorch, git commit, threads.
std::map<std::string, std::string> describe_environment();

}  // namespace olmoe
