#pragma once
#include <string>

#include "trainer/device/device_facts.h"

namespace olmoe {

/// Clock of a GPU's multiprocessors, asked of NVML, which comes with the driver and is opened when this is called: no
/// build needs it. Nothing where the system has none, or it does not tell. `pci_address` names the GPU, for NVML
/// numbers them in another order than CUDA.
std::optional<Clock> sm_clock(const std::string& pci_address);

/// Version of NVIDIA's driver, "580.65.06", asked of NVML too. Nothing where there is none.
std::optional<std::string> driver_version();

}  // namespace olmoe
