#include "trainer/job/devices.h"

#include <ATen/ATen.h>

#include <set>

#include "core/error.h"
#include "kernels/attention.h"
#include "kernels/experts.h"
#include "parallel/collectives/nccl_communicator.h"
#include "parallel/collectives/rendezvous.h"
#include "trainer/device/cuda_device.h"
#include "trainer/job/environment.h"

namespace olmoe {
namespace {

/// NCCL does not support two ranks on one GPU. Compares UUIDs, because launchers may make only its own GPU visible to
/// each rank. Collective over ranks.
void refuse_shared_gpus(Communicator& ranks, int index) {
  const auto [high, low] = cuda::gpu_facts(index).uuid;
  const auto own = at::tensor({high, low}, at::kLong);
  auto all_W2 = at::empty({ranks.size() * 2}, at::kLong);
  ranks.all_gather(all_W2, own);
  std::set<std::pair<int64_t, int64_t>> gpus;
  const int64_t* const ids = all_W2.const_data_ptr<int64_t>();
  for (int rank = 0; rank < ranks.size(); ++rank) gpus.emplace(ids[2 * rank], ids[2 * rank + 1]);
  if (std::ssize(gpus) < ranks.size())
    throw ConfigError(
        fmt::format("parallel.transport: {} ranks share {} GPUs, which NCCL refuses; start one rank a GPU, or "
                    "use parallel.transport=host",
                    ranks.size(), gpus.size()));
}

void check_fused_experts(const cuda::GpuFacts& gpu) {
  if (!kernels::fused_experts_built_in())
    throw ConfigError(
        "train.expert_kernels: this program has no fused kernels; build it with "
        "OLMOE_CUDA_ARCHITECTURES=90a, or use train.expert_kernels=unfused");
  if (gpu.major != 9 || gpu.minor != 0)
    throw ConfigError(
        fmt::format("train.expert_kernels: the fused kernels are for GPUs of compute capability 9.0, and "
                    "{} has {}.{}; use train.expert_kernels=unfused",
                    gpu.name, gpu.major, gpu.minor));
}

void check_cudnn_attention(const cuda::GpuFacts& gpu) {
  if (!kernels::cudnn_attention_built_in())
    throw ConfigError(
        "train.attention_kernel: this program has no cuDNN attention; build it with "
        "scripts/build_cuda.sh, or use train.attention_kernel=flash");
  if (gpu.major != 9 || gpu.minor != 0)
    throw ConfigError(
        fmt::format("train.attention_kernel: cuDNN's attention is used on GPUs of compute capability 9.0 "
                    "alone, and {} has {}.{}; use train.attention_kernel=flash",
                    gpu.name, gpu.major, gpu.minor));
}

}  // namespace

c10::Device device_of_rank(DeviceKind kind) {
  if (kind == DeviceKind::cpu) return at::kCPU;
  const int count = cuda::device_count();
  if (!cuda::built_in())
    throw ConfigError(
        "train.device: this program was built without CUDA; build the preset cuda-release, or use "
        "train.device=cpu");
  if (count == 0) throw ConfigError("train.device: no GPU is visible (check nvidia-smi and CUDA_VISIBLE_DEVICES)");
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank(process_environment()) % count)};
}

void prepare_device(const ResolvedRun& run) {
  if (run.device.is_cpu()) return check_cpu(run.config.train);
  cuda::use_device(run.device.index());
  check_gpu(run.config, cuda::gpu_facts(run.device.index()));
  // GEMMs of bf16 accumulate in fp32 to the end: cuBLAS may not reduce partial sums in bf16.
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
}

void check_gpu(const Config& config, const cuda::GpuFacts& gpu) {
  const bool grouped = config.model.has_experts() && config.train.compute_dtype == ComputeDtype::bfloat16;
  const bool waits = grouped && gpu.major != 9 && gpu.major != 10;
  if (config.train.cuda_graph && waits)
    throw ConfigError(
        fmt::format("train.cuda_graph: on {} (compute capability {}.{}) LibTorch's grouped GEMM of "
                    "bfloat16 needs a host sync; it does not on 9.0 and 10.0 (H100, H200, B200)",
                    gpu.name, gpu.major, gpu.minor));
  if (config.train.expert_kernels == kernels::ExpertKernels::fused && config.model.has_experts())
    check_fused_experts(gpu);
  if (config.train.attention_kernel == kernels::AttentionKernel::cudnn) check_cudnn_attention(gpu);
}

std::unique_ptr<Communicator> connect_devices(const ResolvedRun& run, Communicator& world) {
  auto ranks = world.split(0, world.rank(), world.name());
  const bool alone = ranks->size() == 1;  // one rank needs no back end
  if (run.device.is_cpu() || alone || run.config.parallel.transport == Transport::host) return ranks;
  refuse_shared_gpus(*ranks, run.device.index());
  std::unique_ptr<Communicator> joined;
  world.diagnostics().traced(Collective::join, [&] { joined = make_nccl_communicator(std::move(ranks), run.device); });
  return joined;
}

}  // namespace olmoe
