#pragma once
#include <c10/core/Device.h>

#include <chrono>
#include <map>
#include <string>

#include "core/error.h"
#include "core/process/machine.h"
#include "trainer/config/config.h"

namespace olmoe {

/// Sets up malloc, oneDNN, NCCL, cuBLAS and limits for this program, and starts to count tensor memory. Freed memory
/// stays in the process: returned pages fault again in the next step, which costs more than the arithmetic on them.
/// Call once, first thing in main.
void prepare_process();
/// Starts a timer that ends this process with `code` after `patience`, whatever it is blocked in.
void end_within(std::chrono::seconds patience, ExitCode code);
/// Ranks that the launcher started on this machine, from its environment variables; 1 without a launcher. Slurm's
/// variables of an allocation do not count: a program may run alone inside one.
int ranks_on_node();
/// Threads of this rank: run.threads, else OMP_NUM_THREADS, else threads_of_rank() of the cores that this process may
/// run on, within the limits of control groups and Slurm.
int choose_threads(int64_t configured, int ranks_on_node, const SystemView& system = {});
/// `cores_together` of all ranks of the machine / `ranks`, at most `own_cores`, because a launcher may have divided the
/// cores already. At least 1.
int threads_of_rank(int own_cores, int cores_together, int ranks);
/// Throws ConfigError for a CPU without the vector instructions that the kernels are built for, and for a compute dtype
/// that it would emulate.
void check_cpu(const TrainConfig& config);
/// What results on `device` may depend on: the GPU and its driver, or CPU features; LibTorch, git commit, threads.
std::map<std::string, std::string> describe_environment(c10::Device device);

}  // namespace olmoe
