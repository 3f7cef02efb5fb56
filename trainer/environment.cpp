#include "trainer/environment.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <malloc.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/version.h"

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

}  // namespace

void prepare_process() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
  // oneDNN writes code for each shape of a bf16 product, and an expert's rows change from step to step; its default of
  // 1,024 kept shapes made half of a step compilation.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384", /*overwrite=*/0);
}

int ranks_on_node() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"})
    if (const char* text = std::getenv(name); text != nullptr && std::atoi(text) > 0) return std::atoi(text);
  return 1;
}

int choose_threads(int64_t configured, int ranks_on_node) {
  if (configured > 0) return static_cast<int>(configured);
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr && std::atoi(text) > 0) return std::atoi(text);
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) / std::max(1, ranks_on_node));
}

void check_device(const TrainConfig& config) {
  if (config.device != DeviceKind::cpu)
    throw ConfigError("train.device: this build has no code for cuda; use train.device=cpu");
  if (config.compute_dtype != ComputeDtype::bfloat16) return;
  const auto features = cpu_features();
  if (features.find("bf16") == std::string::npos)
    throw ConfigError(
        fmt::format("train.compute_dtype: bfloat16 needs a CPU with amx_bf16 or avx512_bf16, this one has: {}; use "
                    "float32",
                    features));
}

std::map<std::string, std::string> describe_environment() {
  return {{"cpu_features", cpu_features()},
          {"libtorch", TORCH_VERSION},
          {"git_commit", kGitCommit},
          {"version", kVersion},
          {"threads", std::to_string(at::get_num_threads())}};
}

}  // namespace olmoe
