#pragma once
#include <span>
#include <string>
#include <string_view>

namespace olmoe {

/// What a GPU's maker states of it, and of a node of eight such GPUs.
struct GpuSpecs {
  std::string_view name;
  double bf16_flop_per_s;  ///< dense bf16 products with fp32 sums: no sparsity
  double memory_byte_per_s;
  double memory_bytes;
  double nvlink_byte_per_s;   ///< of one GPU, one direction
  double network_byte_per_s;  ///< of the one adapter that a GPU has to itself, one direction
  int multiprocessors;
  int compute_capability;  ///< 90 for 9.0
};

/// Multiprocessors that memory is planned for where no GPU is named: those of an H100 or H200.
constexpr int kUsualMultiprocessors = 132;

/// GPUs of a node, all joined by NVLink, of every one in the table.
constexpr int kGpusPerNode = 8;

/// Share of a GPU's memory that tensors may take: CUDA, NCCL and cuBLAS have buffers of their own, and an allocator
/// cannot fill every gap.
constexpr double kUsableMemory = 0.9;
inline bool fits(double bytes, const GpuSpecs& gpu) { return bytes <= kUsableMemory * gpu.memory_bytes; }

/// In the order of their names.
std::span<const GpuSpecs> known_gpus();
/// Their names: "a100, b200, h100, h200".
std::string gpu_names();
/// Throws ConfigError that names those there are.
const GpuSpecs& find_gpu(std::string_view name);

}  // namespace olmoe
