#include "trainer/job/environment.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <malloc.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "core/process/bus_errors.h"
#include "core/process/process_limits.h"
#include "core/version.h"
#include "trainer/device/device_facts.h"
#include "trainer/device/nvidia_driver.h"
#include "trainer/device/tensor_memory.h"

namespace olmoe {
namespace {

/// The features in /proc/cpuinfo by which kernels are chosen.
std::string cpu_features() {
  std::ifstream in("/proc/cpuinfo");
  std::string line, found;
  while (std::getline(in, line) && !line.starts_with("flags")) continue;
  for (const char* feature : {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    if ((line + " ").find(fmt::format(" {} ", feature)) != std::string::npos) found += fmt::format(" {}", feature);
  return found.empty() ? "baseline" : found.substr(1);
}

}  // namespace

void prepare_process() {
  ::signal(SIGCHLD, SIG_DFL);  // ignored, as some launchers leave it, no exit code of a command could be read
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never; any number would be a threshold
  mallopt(M_TOP_PAD, 64 << 20);
  // One arena. The loader's thread allocates small aligned tensors that the training thread frees: glibc before 2.38
  // takes them from new memory until that thread's arena of 64 MiB is full. In one arena they are reused.
  mallopt(M_ARENA_MAX, 1);
  // oneDNN compiles code for each shape of a bf16 GEMM, and the rows of experts change in every step. With its default
  // cache of 1,024 shapes, half of a step was compilation.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384", /*overwrite=*/0);
  // NCCL launches groups in the order of the calls. Otherwise two ranks could start different groups, each of which
  // occupies the GPU, and deadlock.
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);
  // Required by cuBLAS for the same bits in every run.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  report_file_size_limit();
  raise_open_file_limit();
  explain_bus_errors();
  tensor_memory::count_host();
}

void end_within(std::chrono::seconds patience, ExitCode code) {
  try {
    std::thread([=] {
      std::this_thread::sleep_for(patience);
      std::_Exit(static_cast<int>(code));
    }).detach();
  } catch (const std::system_error& error) {  // the caller is reporting an error, which this one must not hide
    log::warn("no timer ends this process if other ranks hang: {}", error.code().message());
  }
}

int ranks_on_node() {
  // The last is "8(x4)" or "8,7", and is set by srun only, for the tasks that it starts.
  for (const char* name :
       {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE"})
    if (const char* text = std::getenv(name); text != nullptr && std::atoi(text) > 0) return std::atoi(text);
  return 1;
}

int choose_threads(int64_t configured, int ranks_on_node, const SystemView& system) {
  if (configured > 0) return static_cast<int>(configured);
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr && std::atoi(text) > 0) return std::atoi(text);
  const int own = allowed_cores();
  ENSURE(own > 0, "the system does not report the cores that this process may run on; set run.threads");
  // Whole CPUs: with more threads than the quota allows, all of them wait for the one that is throttled.
  const int together = static_cast<int>(tightest(cpu_bounds(system)).cpus);
  return threads_of_rank(std::min(own, cpus_of_slurm_task(ranks_on_node, system).value_or(own)), together,
                         ranks_on_node);
}

int threads_of_rank(int own_cores, int cores_together, int ranks) {
  return std::max(1, std::min(own_cores, cores_together / std::max(1, ranks)));
}

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

std::map<std::string, std::string> describe_environment(c10::Device device) {
  std::map<std::string, std::string> out{{"cpu_features", cpu_features()},
                                         {"libtorch", TORCH_VERSION},
                                         {"git_commit", kGitCommit},
                                         {"version", kVersion},
                                         {"threads", std::to_string(at::get_num_threads())}};
  if (device.is_cuda()) out["gpu"] = describe(cuda::gpu_facts(device.index()), driver_version());
  return out;
}

}  // namespace olmoe
