#include "trainer/device/cuda_device.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>

#include <cstring>

#include "core/error.h"

namespace olmoe::cuda {
namespace {

/// Every .cu file is compiled for the same GPUs: where this kernel loads, all do.
__global__ void probe() {}

}  // namespace

bool built_in() { return true; }

int device_count() { return c10::cuda::device_count(); }

GpuFacts gpu_facts(int index) {
  cudaDeviceProp facts{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&facts, index));
  std::array<int64_t, 2> uuid{};
  static_assert(sizeof(uuid) == sizeof(facts.uuid));
  std::memcpy(uuid.data(), &facts.uuid, sizeof(uuid));
  std::array<char, 32> pci_address{};
  C10_CUDA_CHECK(cudaDeviceGetPCIBusId(pci_address.data(), static_cast<int>(pci_address.size()), index));
  return {facts.name, facts.major, facts.minor, pci_address.data(), uuid, facts.multiProcessorCount};
}

void use_device(int index) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  cudaFuncAttributes code{};
  const auto status = cudaFuncGetAttributes(&code, probe);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();  // clears the error, which is reported here, before the next launch sees it
    const auto facts = gpu_facts(index);
    throw ConfigError(fmt::format(
        "train.device: this program has no code for GPU {}, {} (compute capability {}.{}); "
        "build it with OLMOE_CUDA_ARCHITECTURES={}{}{}",
        index, facts.name, facts.major, facts.minor, facts.major, facts.minor, facts.major >= 9 ? "a" : ""));
  }
  C10_CUDA_CHECK(status);
}

HostSyncMode::HostSyncMode(Then then) : before_(static_cast<int>(c10::cuda::warning_state().get_sync_debug_mode())) {
  const auto mode = then == Then::fail ? c10::cuda::SyncDebugMode::L_ERROR : c10::cuda::SyncDebugMode::L_WARN;
  c10::cuda::warning_state().set_sync_debug_mode(mode);
}
HostSyncMode::~HostSyncMode() {
  c10::cuda::warning_state().set_sync_debug_mode(static_cast<c10::cuda::SyncDebugMode>(before_));
}

}  // namespace olmoe::cuda
