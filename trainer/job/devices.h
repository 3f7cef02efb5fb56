#pragma once
#include <c10/core/Device.h>

#include <memory>

#include "parallel/collectives/communicator.h"
#include "trainer/config/config.h"
#include "trainer/device/cuda_device.h"
#include "trainer/job/resolved_run.h"

namespace olmoe {

/// The CPU, or GPU number (place of this rank on its node) mod (GPUs that this process sees). Throws ConfigError where
/// there is none.
c10::Device device_of_rank(DeviceKind kind);
/// Makes the GPU of a run current, or looks at the CPU. Refuses a device that this program has no code for, a compute
/// dtype that this CPU would only emulate, and what check_gpu() does. Throws ConfigError.
void prepare_device(const ResolvedRun& run);
/// Refuses train.cuda_graph on a GPU where a step of this config waits for the host, and fused experts where this
/// program or this GPU has none. What no GPU can run was refused when the config was read. Throws ConfigError.
void check_gpu(const Config& config, const cuda::GpuFacts& gpu);
/// The same ranks, joined as the run's device wants: GPUs over NCCL, or as `world` joins them. After
/// prepare_device(). Throws ConfigError where ranks share a GPU over NCCL. Collective over world.
std::unique_ptr<Communicator> connect_devices(const ResolvedRun& run, Communicator& world);

}  // namespace olmoe
