#pragma once
#include <c10/core/Device.h>

#include <chrono>
#include <map>
#include <string>

#include "core/error.h"
#include "core/process/machine.h"
#include "trainer/config/config.h"

namespace olmoe {

/// Keeps freed memory in the process (pages that go back to the kernel fault again in the next step, which costs more
/// than the arithmetic on them) and enough of oneDNN's generated code, and counts tensors from then on. Call first
/// thing in main, once.
void prepare_process();
/// From now on nothing keeps this process for longer than `patience`, neither other ranks nor what joins them: then it
/// ends with `code`, if it has not ended before.
void end_within(std::chrono::seconds patience, ExitCode code);
/// Ranks that the launcher started on this machine, from its environment variables; 1 without a launcher. What Slurm
/// says of an allocation does not count: a program may run alone inside.
int ranks_on_node();
/// This machine's name, or "unknown-host".
std::string host_name();
/// Threads of this rank: run.threads, else OMP_NUM_THREADS, else threads_of_rank() of the cores that this process and
/// its launcher may run on, and of the CPUs that control groups and Slurm leave them.
int choose_threads(int64_t configured, int ranks_on_node, const SystemView& system = {});
/// What all ranks of the machine have together / ranks, but no more than this rank may run on, for a launcher may have
/// divided the cores already. At least 1.
int threads_of_rank(int own_cores, int cores_together, int ranks);
/// Refuses a CPU without the vectors that the kernels are built for, and a compute dtype that it would only emulate.
/// Throws ConfigError.
void check_cpu(const TrainConfig& config);
/// What a result on `device` may depend on: the GPU and its driver, or CPU features; LibTorch, git commit, threads.
std::map<std::string, std::string> describe_environment(c10::Device device);

}  // namespace olmoe
