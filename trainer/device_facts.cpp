#include "trainer/device_facts.h"

#include <ATen/DeviceAccelerator.h>
#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "trainer/gpu_specs.h"
#include "trainer/nvidia_driver.h"

namespace olmoe {
namespace {

/// What stands behind the first `key` and a colon in a file of the system; empty where it does not.
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

double number(const std::string& text) {
  std::istringstream in(text);
  double value = 0;
  ENSURE(static_cast<bool>(in >> value), "the system says '{}' where a number is expected", text);
  return value;
}

/// kHz as MHz of a file of cpufreq, which many virtual machines lack.
std::optional<double> frequency_mhz(const char* name) {
  std::ifstream in(fmt::format("/sys/devices/system/cpu/cpu0/cpufreq/{}", name));
  double khz = 0;
  return in >> khz ? std::optional(khz / 1e3) : std::nullopt;
}

DeviceFacts cpu_facts() {
  constexpr double kKib = 1024;
  cpu_set_t cores;
  const bool known = sched_getaffinity(0, sizeof(cores), &cores) == 0;
  auto model = entry("/proc/cpuinfo", "model name");
  if (model.empty()) model = "CPU";
  DeviceFacts facts{fmt::format("{}, {} cores", model, known ? fmt::to_string(CPU_COUNT(&cores)) : "unknown"),
                    number(entry("/proc/meminfo", "MemTotal")) * kKib,
                    number(entry("/proc/meminfo", "MemAvailable")) * kKib,
                    {}};
  const auto now_mhz = frequency_mhz("scaling_cur_freq"), most_mhz = frequency_mhz("cpuinfo_max_freq");
  if (now_mhz && most_mhz) facts.clock = Clock{*now_mhz, *most_mhz};
  return facts;
}

c10::DeviceIndex index_of(c10::Device gpu) {
  return gpu.has_index() ? gpu.index() : at::accelerator::getDeviceIndex();
}

DeviceFacts gpu_facts(c10::Device device) {
  const auto index = index_of(device);
  const auto [free_bytes, total_bytes] = at::accelerator::getMemoryInfo(index);
  const auto gpu = kernels::cuda::gpu_facts(index);
  return {gpu.name, static_cast<double>(total_bytes), static_cast<double>(free_bytes), sm_clock(gpu.pci_address)};
}

}  // namespace

int multiprocessors_of(c10::Device device) {
  return device.is_cpu() ? kUsualMultiprocessors : kernels::cuda::gpu_facts(index_of(device)).multiprocessors;
}

DeviceFacts read_device_facts(c10::Device device) { return device.is_cpu() ? cpu_facts() : gpu_facts(device); }

std::string describe(const kernels::cuda::GpuFacts& gpu, const std::optional<std::string>& driver) {
  return fmt::format("{}, compute capability {}.{}, driver {}", gpu.name, gpu.major, gpu.minor,
                     driver.value_or("not told"));
}

std::string describe(const DeviceFacts& facts) {
  const auto clock =
      facts.clock ? fmt::format("{:.0f} of {:.0f} MHz", facts.clock->now_mhz, facts.clock->most_mhz) : "clock not told";
  return fmt::format("{}, {:.1f} of {:.1f} GB free, {}", facts.name, facts.free_bytes / 1e9, facts.total_bytes / 1e9,
                     clock);
}

}  // namespace olmoe
