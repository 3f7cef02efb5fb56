#include "trainer/nvidia_driver.h"

#include <dlfcn.h>

#include <array>

namespace olmoe {
namespace {

/// A shared library while it is open; none where the system has none.
class Library {
 public:
  explicit Library(const char* name) : handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {}
  ~Library() {
    if (handle_ != nullptr) dlclose(handle_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// Calls a function that returns 0 for success; false where it does not, or is not there.
  template <class... Args>
  bool call(const char* function, Args... args) const {
    void* const symbol = handle_ != nullptr ? dlsym(handle_, function) : nullptr;
    return symbol != nullptr && reinterpret_cast<int (*)(Args...)>(symbol)(args...) == 0;
  }

 private:
  void* handle_;
};

using Text = std::array<char, 128>;
constexpr int kTextBytes = static_cast<int>(Text{}.size());

/// NVML numbers devices in another order than CUDA: the bus address is the same in both.
std::optional<Clock> sm_clock(const char* bus_address) {
  constexpr int kSmClock = 1;  // NVML_CLOCK_SM
  const Library nvml("libnvidia-ml.so.1");
  void* device = nullptr;
  unsigned now_mhz = 0, most_mhz = 0;
  if (!nvml.call("nvmlInit_v2")) return {};
  const bool read = nvml.call("nvmlDeviceGetHandleByPciBusId_v2", bus_address, &device) &&
                    nvml.call("nvmlDeviceGetClockInfo", device, kSmClock, &now_mhz) &&
                    nvml.call("nvmlDeviceGetMaxClockInfo", device, kSmClock, &most_mhz);
  nvml.call("nvmlShutdown");
  if (!read) return {};
  return Clock{static_cast<double>(now_mhz), static_cast<double>(most_mhz)};
}

}  // namespace

DriverFacts ask_nvidia_driver(int device_index) {
  const Library cuda("libcuda.so.1");
  DriverFacts facts;
  int device = 0;
  Text name{}, bus_address{};
  if (!cuda.call("cuInit", 0U) || !cuda.call("cuDeviceGet", &device, device_index)) return facts;
  if (cuda.call("cuDeviceGetName", name.data(), kTextBytes, device)) facts.name = name.data();
  if (cuda.call("cuDeviceGetPCIBusId", bus_address.data(), kTextBytes, device)) {
    const char* const address = bus_address.data();
    facts.clock = sm_clock(address);
  }
  return facts;
}

}  // namespace olmoe
