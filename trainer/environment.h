#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>

#include "parallel/communicator.h"
#include "trainer/config.h"

namespace olmoe {

/// Keeps freed memory in the process (pages that go back to the kernel fault again in the next step, which costs more
/// than the arithmetic on them) and enough of oneDNN's generated code. Call first thing in main, once.
void prepare_process();
/// Ranks that the launcher started on this machine, from its environment variables; 1 without a launcher. What Slurm
/// says of an allocation does not count: a program may run alone inside.
int ranks_on_node();
/// Threads of this rank: run.threads, else OMP_NUM_THREADS, else threads_of_rank() of the cores that this process and
/// its launcher may run on.
int choose_threads(int64_t configured, int ranks_on_node);
/// The launcher's cores / ranks, but no more than this rank may run on, for a launcher may have divided them already.
/// At least 1.
int threads_of_rank(int own_cores, int launcher_cores, int ranks);
/// The CPU, or GPU number (place of this rank on its node) mod the GPUs that this process sees. Throws ConfigError where there is none.
at::Device device_of_rank(DeviceKind kind);
/// Makes this rank's GPU current, or looks at the CPU. Refuses a device that this program has no code for, and a compute
/// dtype that this CPU would only emulate. Throws ConfigError.
void prepare_device(const Config& config);
/// The same ranks, joined as the config's device wants: GPUs over NCCL, or as `world` joins them. After prepare_device().
/// Throws ConfigError where ranks share a GPU over NCCL. Collective over world.
std::unique_ptr<Communicator> connect_devices(const Config& config, Communicator& world);
/// What a result may depend on: CPU features, LibTorch, git commit, threads.
std::map<std::string, std::string> describe_environment();

}  // namespace olmoe
