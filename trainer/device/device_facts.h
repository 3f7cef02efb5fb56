#pragma once
#include <c10/core/Device.h>

#include <optional>
#include <string>
#include <vector>

#include "core/process/machine.h"
#include "trainer/device/cuda_device.h"

namespace olmoe {

/// Now and at most, of what computes.
struct Clock {
  double now_mhz, most_mhz;
};

/// What a device says of itself.
struct DeviceFacts {
  std::string name;
  std::vector<MemoryBound> memory;  ///< what bounds it, first the device's own size
  std::optional<Clock> clock;       ///< where the system tells
};

/// Multiprocessors of a GPU; for a CPU, which has none, those that a plan takes where it is told of no GPU.
int multiprocessors_of(c10::Device device);

/// Asks the system for a CPU, LibTorch and the driver for a GPU. Throws Error where the memory cannot be read.
DeviceFacts read_device_facts(c10::Device device, const SystemView& system = {});

/// What results on a GPU may depend on: "NVIDIA H100 80GB HBM3, compute capability 9.0, driver 580.65.06".
std::string describe(const cuda::GpuFacts& gpu, const std::optional<std::string>& driver);

/// "NVIDIA H100 80GB HBM3, 79.2 of 85.0 GB free, 1755 of 1980 MHz"; of a CPU the bound of memory that leaves least.
std::string describe(const DeviceFacts& facts);

}  // namespace olmoe
