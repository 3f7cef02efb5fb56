#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "trainer/device/warning_counter.h"

namespace olmoe::cuda {

/// A GPU as the CUDA runtime describes it.
struct GpuFacts {
  std::string name;
  int major, minor;             ///< compute capability
  std::string pci_address;      ///< "0000:3b:00.0"
  std::array<int64_t, 2> uuid;  ///< tells it from every other GPU, or slice of one
  int multiprocessors;
};

/// True if this program has CUDA code at all.
bool built_in();
/// GPUs that this process sees; 0 where there is no driver.
int device_count();
GpuFacts gpu_facts(int index);
/// Makes a GPU the current one of this thread. Throws ConfigError, naming it, if this program has no code for it.
void use_device(int index);

/// While it lives, LibTorch warns or throws where it makes the host wait for a GPU, in every thread; then it does as
/// before.
class HostSyncMode {
 public:
  enum class Then { warn, fail };  ///< fail: throws
  explicit HostSyncMode(Then then);
  ~HostSyncMode();
  HostSyncMode(const HostSyncMode&) = delete;
  HostSyncMode& operator=(const HostSyncMode&) = delete;

 private:
  int before_;  ///< as LibTorch numbers its modes
};

/// While it lives, whatever makes the host wait for a GPU through LibTorch throws, in every thread.
class NoHostSync {
  HostSyncMode mode_{HostSyncMode::Then::fail};
};

/// While it lives, counts how often this thread was made to wait for a GPU through LibTorch. What waits without
/// LibTorch's knowledge is not seen: in this program `fetch` (parallel/collectives/host_tensor.h), by which the host
/// reads what it asked for.
class HostSyncCounter {
 public:
  int64_t count() const { return warnings_.count(); }

 private:
  WarningCounter warnings_{"synchronizing CUDA operation"};  // LibTorch's words for it, which a [cuda] test holds it to
  HostSyncMode mode_{HostSyncMode::Then::warn};
};

}  // namespace olmoe::cuda
