// What is said of a GPU, and which of them a graph is refused on.
#include "trainer/devices.h"

#include "core/error.h"
#include "support/catch.h"
#include "trainer/device_facts.h"
#include "trainer/environment.h"

namespace {

using namespace olmoe;

kernels::cuda::GpuFacts gpu(const char* name, int major, int minor) {
  return {name, major, minor, "0000:3b:00.0", {1, 2}};
}

Config graph_config() {
  Config config;
  config.train.device = DeviceKind::cuda;
  config.train.cuda_graph = true;
  return config;
}

}  // namespace

TEST_CASE("a GPU is named with all that results may depend on") {
  CHECK(describe(gpu("NVIDIA H100 80GB HBM3", 9, 0), "580.65.06") ==
        "NVIDIA H100 80GB HBM3, compute capability 9.0, driver 580.65.06");
  CHECK(describe(gpu("NVIDIA B200", 10, 0), std::nullopt) == "NVIDIA B200, compute capability 10.0, driver not told");
}

TEST_CASE("a result on a CPU depends on the CPU, and on no GPU") {
  const auto environment = describe_environment(at::kCPU);
  CHECK(environment.contains("cpu_features"));
  CHECK(environment.contains("libtorch"));
  CHECK_FALSE(environment.contains("gpu"));
}

TEST_CASE("a graph is refused where LibTorch's grouped product waits for the host") {
  auto config = graph_config();
  CHECK_NOTHROW(check_gpu(config, gpu("NVIDIA H100", 9, 0)));
  CHECK_NOTHROW(check_gpu(config, gpu("NVIDIA B200", 10, 0)));
  CHECK_THROWS_AS(check_gpu(config, gpu("NVIDIA A100", 8, 0)), ConfigError);
  CHECK_THROWS_WITH(check_gpu(config, gpu("NVIDIA A100", 8, 0)),
                    Catch::Contains("train.cuda_graph") && Catch::Contains("NVIDIA A100 (compute capability 8.0)"));
  CHECK_THROWS_AS(check_gpu(config, gpu("NVIDIA RTX PRO 6000", 12, 0)), ConfigError);
  config.train.compute_dtype = ComputeDtype::float32;
  CHECK_NOTHROW(check_gpu(config, gpu("NVIDIA A100", 8, 0)));
  config = graph_config();
  config.model.ffn = Ffn::dense;
  CHECK_NOTHROW(check_gpu(config, gpu("NVIDIA A100", 8, 0)));
  config = graph_config();
  config.train.cuda_graph = false;
  CHECK_NOTHROW(check_gpu(config, gpu("NVIDIA A100", 8, 0)));
}
