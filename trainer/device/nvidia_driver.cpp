#include "trainer/device/nvidia_driver.h"

#include <dlfcn.h>

#include <array>

namespace olmoe {
namespace {

/// An open shared library; empty where the system lacks it.
class Library {
 public:
  explicit Library(const char* name) : handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {}
  ~Library() {
    if (handle_ != nullptr) dlclose(handle_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// Calls a function that returns 0 for success. False where it fails or is missing.
  template <class... Args>
  bool call(const char* function, Args... args) const {
    void* const symbol = handle_ != nullptr ? dlsym(handle_, function) : nullptr;
    return symbol != nullptr && reinterpret_cast<int (*)(Args...)>(symbol)(args...) == 0;
  }

 private:
  void* handle_;
};

}  // namespace

std::optional<Clock> sm_clock(const std::string& pci_address) {
  constexpr int kSmClock = 1;  // NVML_CLOCK_SM
  const Library nvml("libnvidia-ml.so.1");
  void* device = nullptr;
  unsigned now_mhz = 0, most_mhz = 0;
  if (!nvml.call("nvmlInit_v2")) return {};
  const bool read = nvml.call("nvmlDeviceGetHandleByPciBusId_v2", pci_address.c_str(), &device) &&
                    nvml.call("nvmlDeviceGetClockInfo", device, kSmClock, &now_mhz) &&
                    nvml.call("nvmlDeviceGetMaxClockInfo", device, kSmClock, &most_mhz);
  nvml.call("nvmlShutdown");
  if (!read) return {};
  return Clock{static_cast<double>(now_mhz), static_cast<double>(most_mhz)};
}

std::optional<std::string> driver_version() {
  const Library nvml("libnvidia-ml.so.1");
  std::array<char, 80> version{};  // NVML's own bound
  if (!nvml.call("nvmlInit_v2")) return {};
  const bool read = nvml.call("nvmlSystemGetDriverVersion", version.data(), static_cast<unsigned>(version.size()));
  nvml.call("nvmlShutdown");
  if (!read) return {};
  return version.data();
}

}  // namespace olmoe
