#include "trainer/device/device_facts.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <fstream>

#include "core/error.h"
#include "trainer/device/gpu_specs.h"
#include "trainer/device/nvidia_driver.h"

namespace olmoe {
namespace {

/// The value of the first line `key: value` in a system file; empty without one.
std::string entry(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    const auto begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}

/// A frequency of cpufreq in MHz; none on virtual machines without it.
std::optional<double> frequency_mhz(const char* name) {
  std::ifstream in(fmt::format("/sys/devices/system/cpu/cpu0/cpufreq/{}", name));
  double khz = 0;
  return in >> khz ? std::optional(khz / 1e3) : std::nullopt;
}

/// "8 cores", and CPU limits below that.
std::string describe_cores(const SystemView& system) {
  const int cores = allowed_cores();
  auto text = cores > 0 ? fmt::format("{} cores", cores) : "unknown cores";
  for (const auto& bound : cpu_bounds(system))
    if (bound.cpus < cores) text += fmt::format(", {:.3g} CPUs ({})", bound.cpus, bound.source);
  return text;
}

DeviceFacts cpu_facts(const SystemView& system) {
  auto model = entry("/proc/cpuinfo", "model name");
  if (model.empty()) model = "CPU";
  DeviceFacts facts{fmt::format("{}, {}", model, describe_cores(system)), memory_bounds(system), {}};
  const auto now_mhz = frequency_mhz("scaling_cur_freq"), most_mhz = frequency_mhz("cpuinfo_max_freq");
  if (now_mhz && most_mhz) facts.clock = Clock{*now_mhz, *most_mhz};
  return facts;
}

c10::DeviceIndex index_of(c10::Device gpu) { return gpu.has_index() ? gpu.index() : at::accelerator::getDeviceIndex(); }

DeviceFacts gpu_facts(c10::Device device) {
  const auto index = index_of(device);
  const auto [free_bytes, total_bytes] = at::accelerator::getMemoryInfo(index);
  const auto gpu = cuda::gpu_facts(index);
  const MemoryBound memory{gpu.name, static_cast<int64_t>(total_bytes), static_cast<int64_t>(free_bytes),
                           /*shared=*/false};
  return {gpu.name, {memory}, sm_clock(gpu.pci_address)};
}

}  // namespace

int multiprocessors_of(c10::Device device) {
  return device.is_cpu() ? kUsualMultiprocessors : cuda::gpu_facts(index_of(device)).multiprocessors;
}

DeviceFacts read_device_facts(c10::Device device, const SystemView& system) {
  return device.is_cpu() ? cpu_facts(system) : gpu_facts(device);
}

std::string describe(const cuda::GpuFacts& gpu, const std::optional<std::string>& driver) {
  return fmt::format("{}, compute capability {}.{}, driver {}", gpu.name, gpu.major, gpu.minor,
                     driver.value_or("unknown"));
}

std::string describe(const DeviceFacts& facts) {
  const auto clock =
      facts.clock ? fmt::format("{:.0f} of {:.0f} MHz", facts.clock->now_mhz, facts.clock->most_mhz) : "clock unknown";
  const auto& bound = tightest(facts.memory);
  const auto whose = &bound == &facts.memory.front() ? "" : fmt::format(" ({})", bound.source);
  return fmt::format("{}, {:.1f} of {:.1f} GB free{}, {}", facts.name, static_cast<double>(bound.free_bytes) / 1e9,
                     static_cast<double>(bound.total_bytes) / 1e9, whose, clock);
}

}  // namespace olmoe
