// What is said of a GPU, and which of them a graph is refused on.
#include "trainer/job/devices.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "support/catch.h"
#include "support/layout_ladder.h"
#include "trainer/config/gpu_limits.h"
#include "trainer/device/device_facts.h"
#include "trainer/job/environment.h"

namespace {

using namespace olmoe;

cuda::GpuFacts gpu(const char* name, int major, int minor) { return {name, major, minor, "0000:3b:00.0", {1, 2}, 132}; }

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
  CHECK(describe(gpu("NVIDIA B200", 10, 0), std::nullopt) == "NVIDIA B200, compute capability 10.0, driver unknown");
}

TEST_CASE("a result on a CPU depends on the CPU, and on no GPU") {
  const auto environment = describe_environment(at::kCPU);
  CHECK(environment.contains("cpu_features"));
  CHECK(environment.contains("libtorch"));
  CHECK_FALSE(environment.contains("gpu"));
}

TEST_CASE("widths and counts that a GPU does not support are refused by key") {
  struct Case {
    std::vector<std::string> overrides;
    std::string says;  ///< empty: it can be run
  };
  const auto experts = [](int64_t number, int64_t apart) {
    return std::vector{fmt::format("model.num_experts={}", number), fmt::format("parallel.expert={}", apart)};
  };
  const std::vector<Case> cases{
      {{}, ""},
      {{"model.latent_dim=12"}, "model.latent_dim: 12 must be a multiple of 8 on a GPU in bfloat16"},
      {{"model.expert_width=12"}, "model.expert_width: 12 must be a multiple of 8 on a GPU in bfloat16"},
      {{"model.expert_width=12"}, "make it 16"},
      {{"model.d_model=2052", "model.num_heads=2", "model.num_kv_heads=2"},
       "model.d_model: 2052 must be a multiple of 8"},
      {{"model.expert_width=12", "train.compute_dtype=float32"}, ""},
      {{"model.expert_width=12", "train.device=cpu"}, ""},
      {{"model.expert_width=12", "model.ffn=dense"}, ""},
      {experts(1023, 1), ""},
      {experts(1024, 1), "model.num_experts: a rank has 1024 experts"},
      {experts(1024, 2), ""},
      {experts(1025, 5), "model.num_experts: 1025 are more than the 1024 that the router's kernels take on a GPU"},
      {{"model.num_heads=8", "model.num_kv_heads=8"}, ""},
      {{"model.num_heads=4", "model.num_kv_heads=4"}, "model.num_heads: heads are 512 wide"},
      {{"model.num_heads=4", "model.num_kv_heads=4", "train.compute_dtype=float32"}, ""},
      {{"train.micro_batch_size=65535", "train.global_batch_size=65536", "data.sequence_length=2"}, ""},
      {{"train.micro_batch_size=65536", "train.global_batch_size=65536", "data.sequence_length=2"},
       "train.micro_batch_size: 65536 is more than the 65535 sequences"},
      {{"train.micro_batch_size=65535", "train.global_batch_size=65535", "data.sequence_length=4096"}, ""},
      {{"train.micro_batch_size=65535", "train.global_batch_size=65535", "data.sequence_length=4097"},
       "train.micro_batch_size: 65535 sequences of 4097 tokens with 8 experts each are more than 2147483647 rows"},
  };
  const std::string published = OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml";
  for (const auto& [overrides, says] : cases) {
    INFO(fmt::format("{}", fmt::join(overrides, " ")));
    if (says.empty()) {
      CHECK_NOTHROW(load_config(published, overrides));
    } else {
      CHECK_THROWS_AS(load_config(published, overrides), ConfigError);
      CHECK_THROWS_WITH(load_config(published, overrides), Catch::Contains(says));
    }
  }
}

TEST_CASE("the configs that tests train with on a GPU are such that it can run them") {
  for (const auto dtype : {ComputeDtype::float32, ComputeDtype::bfloat16, ComputeDtype::float64}) {
    auto config = test::gpu_ladder_run("unused", 4);
    config.train.compute_dtype = dtype;
    INFO(enum_name(dtype));
    CHECK(gpu_limits(config).empty());
    config.model = test::gpu_model();
    CHECK(gpu_limits(config).empty());
  }
}

TEST_CASE("a graph is refused where LibTorch's grouped GEMM needs a host sync") {
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
