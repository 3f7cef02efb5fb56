#pragma once
#include <c10/core/Device.h>

#include <optional>
#include <string>
#include <vector>

#include "core/process/machine.h"
#include "trainer/device/cuda_device.h"

namespace olmoe {

/// Clock rates of a device.
struct Clock {
  double now_mhz, most_mhz;
};

/// What a device reports.
struct DeviceFacts {
  std::string name;
  std::vector<MemoryBound> memory;  ///< its bounds, the device's own size first
  std::optional<Clock> clock;       ///< where the system reports it
};

/// Multiprocessors of a GPU; for a CPU kUsualMultiprocessors, as in a plan without a GPU.
int multiprocessors_of(c10::Device device);

/// From the system for a CPU, from LibTorch and the driver for a GPU. Throws Error where the memory cannot be read.
DeviceFacts read_device_facts(c10::Device device, const SystemView& system = {});

/// What results on a GPU may depend on: "NVIDIA H100 80GB HBM3, compute capability 9.0, driver 580.65.06".
std::string describe(const cuda::GpuFacts& gpu, const std::optional<std::string>& driver);

/// "NVIDIA H100 80GB HBM3, 79.2 of 85.0 GB free, 1755 of 1980 MHz"; for a CPU the memory bound with least free.
std::string describe(const DeviceFacts& facts);

}  // namespace olmoe
