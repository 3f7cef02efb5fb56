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
  std::array<int64_t, 2> uuid;  ///< distinguishes every GPU, or MIG slice of one
  int multiprocessors;
};

/// True if this program was built with CUDA.
bool built_in();
/// GPUs visible to this process; 0 without a driver.
int device_count();
GpuFacts gpu_facts(int index);
/// Makes a GPU the current one of this thread. Throws ConfigError, naming it, if this program has no code for it.
void use_device(int index);

/// Makes LibTorch warn or throw at every host sync, in all threads, while it lives. Restores the mode before.
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

/// Makes every host sync through LibTorch throw, in all threads, while it lives.
class NoHostSync {
  HostSyncMode mode_{HostSyncMode::Then::fail};
};

/// Counts host syncs of this thread through LibTorch while it lives. Others are not seen: in this program those of
/// `fetch` (parallel/collectives/host_tensor.h), by which the host reads results.
class HostSyncCounter {
 public:
  int64_t count() const { return warnings_.count(); }

 private:
  WarningCounter warnings_{"synchronizing CUDA operation"};  // LibTorch's text, checked by a [cuda] test
  HostSyncMode mode_{HostSyncMode::Then::warn};
};

}  // namespace olmoe::cuda
