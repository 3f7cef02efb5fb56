#pragma once
#include <c10/core/Device.h>

#include <memory>

#include "parallel/collectives/communicator.h"
#include "trainer/config/config.h"
#include "trainer/device/cuda_device.h"
#include "trainer/job/resolved_run.h"

namespace olmoe {

/// The CPU, or GPU (rank on the node) mod (visible GPUs). Throws ConfigError where there is no GPU.
c10::Device device_of_rank(DeviceKind kind);
/// Makes the run's GPU current, or checks the CPU. Throws ConfigError for a device that this program has no code for, a
/// compute dtype that this CPU would emulate, and as check_gpu() does.
void prepare_device(const ResolvedRun& run);
/// Throws ConfigError for train.cuda_graph on a GPU where a step of this config needs a host sync, and for fused
/// experts or cuDNN attention that this program or GPU lacks. What no GPU can run is refused when the config is read.
void check_gpu(const Config& config, const cuda::GpuFacts& gpu);
/// A communicator of the same ranks for the run's device: NCCL for GPUs, else that of `world`. Call after
/// prepare_device(). Throws ConfigError where ranks share a GPU over NCCL. Collective over world.
std::unique_ptr<Communicator> connect_devices(const ResolvedRun& run, Communicator& world);

}  // namespace olmoe
