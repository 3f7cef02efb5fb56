#include "trainer/environment.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <malloc.h>
#include <sched.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "core/version.h"
#include "kernels/cuda_device.h"
#include "parallel/nccl_communicator.h"
#include "parallel/rendezvous.h"

namespace olmoe {
namespace {

/// The features of /proc/cpuinfo that choose kernels, of this machine.
std::string cpu_features() {
  std::ifstream in("/proc/cpuinfo");
  std::string line, found;
  while (std::getline(in, line) && !line.starts_with("flags")) continue;
  for (const char* feature : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    if ((line + " ").find(fmt::format(" {} ", feature)) != std::string::npos) found += fmt::format(" {}", feature);
  return found.empty() ? "baseline" : found.substr(1);
}

/// Cores that a process may run on, 0 is this one; 0 where the system does not tell.
int cores_of(pid_t process) {
  constexpr size_t kMostSets = 1024;  // of 1,024 cores each
  for (std::vector<cpu_set_t> sets(1); sets.size() <= kMostSets; sets.resize(2 * sets.size())) {
    const size_t size_bytes = sets.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(process, size_bytes, sets.data()) == 0) return CPU_COUNT_S(size_bytes, sets.data());
    if (errno != EINVAL) break;  // EINVAL: the machine has more cores than that
  }
  return 0;
}

/// Refuses a CPU without the vectors that the kernels are built for, and a compute dtype that it would only emulate.
void check_cpu(const TrainConfig& config) {
  const auto features = cpu_features();
#if defined(__x86_64__)
  if (features.find("avx2") == std::string::npos)
    throw ConfigError("train.device: this program is built for CPUs with AVX2 and FMA, which this one lacks");
#endif
  if (config.compute_dtype != ComputeDtype::bfloat16) return;
  if (features.find("bf16") == std::string::npos)
    throw ConfigError(
        fmt::format("train.compute_dtype: bfloat16 needs a CPU with amx_bf16 or avx512_bf16, this one has: {}; use "
                    "float32",
                    features));
}

}  // namespace

void prepare_process() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never; any number would be a threshold
  mallopt(M_TOP_PAD, 64 << 20);
  // oneDNN writes code for each shape of a bf16 product, and an expert's rows change from step to step; its default of
  // 1,024 kept shapes made half of a step compilation.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384", /*overwrite=*/0);
  // NCCL's groups start in the order of the calls. Else two ranks could each begin with one that the other has no room for.
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);
  // What cuBLAS wants before it promises the same bits in every run.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
}

int ranks_on_node() {
  // The last one reads "8(x4)" or "8,7" and is set by srun alone, for the tasks that it starts.
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE"})
    if (const char* text = std::getenv(name); text != nullptr && std::atoi(text) > 0) return std::atoi(text);
  return 1;
}

int choose_threads(int64_t configured, int ranks_on_node) {
  if (configured > 0) return static_cast<int>(configured);
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr && std::atoi(text) > 0) return std::atoi(text);
  const int own = cores_of(0);
  ENSURE(own > 0, "the system does not tell which cores this process may run on; set run.threads");
  return threads_of_rank(own, std::max(own, cores_of(getppid())), ranks_on_node);
}

int threads_of_rank(int own_cores, int launcher_cores, int ranks) {
  return std::max(1, std::min(own_cores, launcher_cores / std::max(1, ranks)));
}

at::Device device_of_rank(DeviceKind kind) {
  if (kind == DeviceKind::cpu) return at::kCPU;
  const int count = kernels::cuda::device_count();
  if (!kernels::cuda::built_in())
    throw ConfigError("train.device: this program was built without CUDA; build the preset cuda-release, or use "
                      "train.device=cpu");
  if (count == 0) throw ConfigError("train.device: no GPU is to be seen (nvidia-smi should list some)");
  return {at::kCUDA, static_cast<at::DeviceIndex>(local_rank(process_environment()) % count)};
}

void prepare_device(const Config& config) {
  const auto device = device_of_rank(config.train.device);
  if (device.is_cpu()) return check_cpu(config.train);
  kernels::cuda::use_device(device.index());
  // Products of bf16 are summed in fp32 to the end: cuBLAS may not add up partial sums in bf16.
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
}
namespace {

/// Two ranks on one GPU would wait for each other in NCCL. The number of GPUs that a rank sees does not tell: launchers may
/// show each rank its own alone. Collective over ranks.
void refuse_shared_gpus(Communicator& ranks, int index) {
  const auto [high, low] = kernels::cuda::device_facts(index).uuid;
  const auto own = at::tensor({high, low}, at::kLong);
  auto all_W2 = at::empty({ranks.size() * 2}, at::kLong);
  ranks.all_gather(all_W2, own);
  std::set<std::pair<int64_t, int64_t>> gpus;
  const int64_t* const ids = all_W2.const_data_ptr<int64_t>();
  for (int rank = 0; rank < ranks.size(); ++rank) gpus.emplace(ids[2 * rank], ids[2 * rank + 1]);
  if (std::ssize(gpus) < ranks.size())
    throw ConfigError(fmt::format("parallel.transport: {} ranks share {} GPUs, which NCCL refuses; start one rank a GPU, or "
                                  "use parallel.transport=staged",
                                  ranks.size(), gpus.size()));
}

}  // namespace

std::unique_ptr<Communicator> connect_devices(const Config& config, Communicator& world) {
  auto ranks = world.split(0, world.rank(), world.name());
  const auto device = device_of_rank(config.train.device);
  if (device.is_cpu() || config.parallel.transport == Transport::staged) return ranks;
  refuse_shared_gpus(*ranks, device.index());
  return make_nccl_communicator(std::move(ranks), device);
}

std::map<std::string, std::string> describe_environment() {
  return {{"cpu_features", cpu_features()},
          {"libtorch", TORCH_VERSION},
          {"git_commit", kGitCommit},
          {"version", kVersion},
          {"threads", std::to_string(at::get_num_threads())}};
}

}  // namespace olmoe
