#pragma once
#include <span>
#include <string>
#include <string_view>

namespace olmoe {

/// Data sheet of a GPU, and of a node with eight of them.
struct GpuSpecs {
  std::string_view name;
  double bf16_flop_per_s;  ///< dense bf16 GEMM with fp32 accumulation, without sparsity
  double memory_byte_per_s;
  double memory_bytes;
  double nvlink_byte_per_s;   ///< of one GPU, one direction
  double network_byte_per_s;  ///< of a GPU's own adapter, one direction
  int multiprocessors;
  int compute_capability;  ///< 90 for 9.0
};

/// Multiprocessors that memory is planned for where no GPU is named: those of an H100 or H200.
constexpr int kUsualMultiprocessors = 132;

/// GPUs of a node, all joined by NVLink; for all GPUs of the table.
constexpr int kGpusPerNode = 8;

/// Share of a GPU's memory for tensors: CUDA, NCCL and cuBLAS allocate their own buffers, and allocation fragments.
constexpr double kUsableMemory = 0.9;
inline bool fits(double bytes, const GpuSpecs& gpu) { return bytes <= kUsableMemory * gpu.memory_bytes; }

/// Sorted by name.
std::span<const GpuSpecs> known_gpus();
/// Their names: "a100, b200, h100, h200".
std::string gpu_names();
/// Throws ConfigError that lists the known names.
const GpuSpecs& find_gpu(std::string_view name);

}  // namespace olmoe
