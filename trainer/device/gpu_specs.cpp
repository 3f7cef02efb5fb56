#include "trainer/device/gpu_specs.h"

#include <array>

#include "core/error.h"

namespace olmoe {
namespace {

// NVIDIA's data sheets of the SXM parts and of the systems with eight of them. Where a sheet states bf16 with sparsity,
// half of it; where it states NVLink in both directions, half of it. Multiprocessors and compute capability: NVIDIA's
// white papers of the architectures, and the CUDA programming guide.
constexpr std::array kGpus{
    // A100 80GB SXM: "NVIDIA A100 Tensor Core GPU": 312 TFLOPS, 2,039 GB/s, 80 GB, NVLink 600 GB/s. DGX A100: eight
    // ConnectX-6 of 200 Gb/s for the cluster.
    GpuSpecs{"a100", 312e12, 2.039e12, 80e9, 300e9, 25e9, 108, 80},
    // B200 SXM: "NVIDIA Blackwell", column HGX B200: 4.5 PFLOPS sparse, 7.7 TB/s, 180 GB, NVLink 1.8 TB/s. DGX B200
    // user guide: eight ConnectX-7 of 400 Gb/s.
    GpuSpecs{"b200", 2250e12, 7.7e12, 180e9, 900e9, 50e9, 148, 100},
    // H100 80GB SXM5: "NVIDIA H100 Tensor Core GPU": 1,979 TFLOPS sparse, 3.35 TB/s, 80 GB, NVLink 900 GB/s. DGX H100:
    // eight ConnectX-7 of 400 Gb/s.
    GpuSpecs{"h100", 989.5e12, 3.35e12, 80e9, 450e9, 50e9, 132, 90},
    // H200 SXM: "NVIDIA H200 Tensor Core GPU": 1,979 TFLOPS sparse, 4.8 TB/s, 141 GB, NVLink 900 GB/s. DGX H200: as
    // DGX H100.
    GpuSpecs{"h200", 989.5e12, 4.8e12, 141e9, 450e9, 50e9, 132, 90},
};

}  // namespace

std::span<const GpuSpecs> known_gpus() { return kGpus; }

std::string gpu_names() {
  std::string names;
  for (const auto& gpu : kGpus) names += fmt::format("{}{}", names.empty() ? "" : ", ", gpu.name);
  return names;
}

const GpuSpecs& find_gpu(std::string_view name) {
  for (const auto& gpu : kGpus)
    if (gpu.name == name) return gpu;
  throw ConfigError(fmt::format("--gpu: unknown GPU {}; known are {}", name, gpu_names()));
}

}  // namespace olmoe
