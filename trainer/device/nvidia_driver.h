#pragma once
#include <string>

#include "trainer/device/device_facts.h"

namespace olmoe {

/// Clock of a GPU's multiprocessors from NVML, which comes with the driver and is loaded at the call, so that no build
/// needs it. None without NVML or where it does not report. `pci_address` identifies the GPU, because NVML and CUDA
/// number GPUs in different orders.
std::optional<Clock> sm_clock(const std::string& pci_address);

/// Version of NVIDIA's driver, "580.65.06", from NVML too; none without it.
std::optional<std::string> driver_version();

}  // namespace olmoe
