// Replaces the .cu files in a build without CUDA.
#include "core/error.h"
#include "trainer/device/cuda_device.h"
#include "trainer/device/cuda_graph.h"

namespace olmoe::cuda {
namespace {

[[noreturn]] void refuse(const char* what) {
  throw Error(fmt::format("{}: this program was built without CUDA", what));
}

}  // namespace

bool built_in() { return false; }
int device_count() { return 0; }
GpuFacts gpu_facts(int) { refuse("gpu_facts"); }
void use_device(int) { refuse("use_device"); }
HostSyncMode::HostSyncMode(Then) : before_(0) { refuse("HostSyncMode"); }
HostSyncMode::~HostSyncMode() = default;
std::unique_ptr<DeviceGraph> make_device_graph(c10::Device) { refuse("make_device_graph"); }

}  // namespace olmoe::cuda
