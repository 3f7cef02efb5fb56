#include "trainer/roofline.h"

#include <algorithm>

#include "model/flops.h"
#include "support/catch.h"

namespace {

using namespace olmoe;
using Catch::Contains;

constexpr MeshShape kPublished{1, 256, 1};

Config published(const std::string& name = "olmoe-1b-7b", const std::vector<std::string>& overrides = {}) {
  return load_config(OLMOE_SOURCE_DIR "/configs/" + name + ".yaml", overrides);
}

StepPrediction predict(const Config& config, std::string_view gpu, MeshShape mesh = kPublished) {
  return predict_step(config, mesh, find_gpu(gpu));
}

const Work& part(const StepWork& work, std::string_view name) {
  const auto found =
      std::find_if(work.parts.begin(), work.parts.end(), [&](auto& p) { return p.name == name; });
  REQUIRE(found != work.parts.end());
  return *found;
}

double executed_flops(const StepWork& work) {
  double sum = 0;
  for (const auto& p : work.parts) sum += p.forward.flops + p.backward.flops + p.update.flops;
  return sum;
}

}  // namespace

TEST_CASE("the table of GPUs holds what their data sheets state") {
  struct Row {
    const char* name;
    double tflop_per_s, tbyte_per_s, gb, nvlink_gb_per_s, network_gbit_per_s;
  };
  const std::vector<Row> sheets{{"a100", 312, 2.039, 80, 300, 200},
                                {"b200", 2250, 7.7, 180, 900, 400},
                                {"h100", 989.5, 3.35, 80, 450, 400},
                                {"h200", 989.5, 4.8, 141, 450, 400}};
  REQUIRE(known_gpus().size() == sheets.size());
  for (const auto& sheet : sheets) {
    const auto& gpu = find_gpu(sheet.name);
    CHECK(gpu.bf16_flop_per_s == Approx(sheet.tflop_per_s * 1e12));
    CHECK(gpu.memory_byte_per_s == Approx(sheet.tbyte_per_s * 1e12));
    CHECK(gpu.memory_bytes == Approx(sheet.gb * 1e9));
    CHECK(gpu.nvlink_byte_per_s == Approx(sheet.nvlink_gb_per_s * 1e9));
    CHECK(gpu.network_byte_per_s == Approx(sheet.network_gbit_per_s * 1e9 / 8));
  }
}

TEST_CASE("a GPU that is not known is refused, and those that are known are named") {
  CHECK_THROWS_AS(find_gpu("h800"), ConfigError);
  CHECK_THROWS_WITH(find_gpu("h800"), Contains("h800") && Contains("a100, b200, h100, h200"));
  CHECK_THROWS_WITH(describe_speed(published(), kPublished, "H100"), Contains("a100, b200, h100, h200"));
}

TEST_CASE("a step's products: three times the forward, and what a backward computes again") {
  const auto config = published();
  const auto work = count_step_work(config, kPublished);
  CHECK(work.tokens == 1024 * 4096 / 256);
  const auto flops = count_forward_flops(config.model, config.data.sequence_length);
  const double again = 0.5 * flops.attention + flops.head;  // scores, logits
  CHECK(executed_flops(work) == Approx(work.tokens * (3 * flops.total() + again)).epsilon(1e-12));

  const auto recomputed = count_step_work(published("olmoe-1b-7b", {"train.recompute=full"}), kPublished);
  const double blocks = flops.total() - flops.head;
  CHECK(executed_flops(recomputed) == Approx(executed_flops(work) + work.tokens * blocks).epsilon(1e-12));
}

TEST_CASE("a step's bytes, by hand") {
  const auto work = count_step_work(published(), kPublished);
  const double rows = 16384. * 8 * 16;  // of all blocks
  CHECK(part(work, "permute").forward.bytes == rows * 2 * 2048 * 2);
  CHECK(part(work, "SwiGLU").backward.bytes == rows * 6 * 1024 * 2);
  CHECK(part(work, "cross-entropy").forward.bytes == 16384. * 50304 * 2);
  CHECK(part(work, "AdamW and gradient norm").update.bytes == Approx(6919161856. / 256 * 36));
  CHECK(work.transfers.forward_gather == 6919161856. * 2);
  CHECK(work.transfers.reduce_scatter == 6919161856. * 4);
  CHECK(work.transfers.replica_reduce == 0);
}

TEST_CASE("the busiest rank sets the pace") {
  const auto tokens = [](int64_t global, int64_t micro, int ranks) {
    const auto config = published("olmoe-1b-7b", {fmt::format("train.global_batch_size={}", global),
                                                  fmt::format("train.micro_batch_size={}", micro)});
    return count_step_work(config, {1, ranks, 1}).tokens / 4096;
  };
  CHECK(tokens(8, 4, 2) == 4);
  CHECK(tokens(10, 4, 2) == 6);  // 4, 4 and 2: the first rank has 4 and 2
  CHECK(tokens(14, 4, 2) == 8);  // 4, 4, 4 and 2: the first rank has 4 and 4
  CHECK(tokens(3, 4, 2) == 3);
}

TEST_CASE("a faster GPU takes a shorter step, and nothing beats its peak") {
  for (const auto* name : {"olmoe-1b-7b", "olmo-1b-dense"}) {
    const auto config = published(name);
    CHECK(predict(config, "h100").step_s < predict(config, "a100").step_s);
    CHECK(predict(config, "h200").step_s < predict(config, "h100").step_s);
    CHECK(predict(config, "b200").step_s < predict(config, "h200").step_s);
    for (const auto& gpu : known_gpus()) {
      const auto p = predict_step(config, kPublished, gpu);
      CHECK(p.step_s <= p.serial_step_s);
      CHECK(p.mfu_causal > 0.1);
      CHECK(p.mfu_causal < p.mfu_full);
      CHECK(p.mfu_full < 0.6);
    }
  }
}

TEST_CASE("each figure of a GPU matters where it should") {
  const auto config = published();
  const auto& gpu = find_gpu("h100");
  const auto with = [&](double GpuSpecs::*figure, MeshShape mesh) {
    auto better = gpu;
    better.*figure *= 2;
    return predict_step(config, mesh, better);
  };
  const auto base = predict_step(config, kPublished, gpu), alone = predict_step(config, {}, gpu);
  CHECK(with(&GpuSpecs::bf16_flop_per_s, kPublished).compute_s < base.compute_s);
  CHECK(with(&GpuSpecs::memory_byte_per_s, kPublished).compute_s < base.compute_s);
  CHECK(with(&GpuSpecs::network_byte_per_s, kPublished).transfer_s < base.transfer_s);
  CHECK(with(&GpuSpecs::nvlink_byte_per_s, {1, 8, 1}).transfer_s <
        predict_step(config, {1, 8, 1}, gpu).transfer_s);
  CHECK(with(&GpuSpecs::network_byte_per_s, {1, 8, 1}).transfer_s ==
        predict_step(config, {1, 8, 1}, gpu).transfer_s);
  CHECK(alone.transfer_s == 0);
  CHECK(alone.exposed_s == 0);
}

TEST_CASE("gathering all weights of OLMoE-1B-7B once takes 35 to 45 ms on 256 H100") {
  const auto config = published();
  const auto with = [&](int64_t zero_stage) {
    auto other = config;
    other.parallel.zero_stage = zero_stage;
    return predict(other, "h100").transfer_s;
  };
  // ZeRO-3 gathers a second time for the backward, all but the last stage.
  const double one_gather_s = (with(3) - with(2)) * 6919161856. / (6919161856. - 50305 * 2048);
  CHECK(one_gather_s > 0.035);
  CHECK(one_gather_s < 0.045);
}

TEST_CASE("what is printed of a prediction") {
  auto config = published();
  CHECK_THAT(describe_speed(config, kPublished, ""), Contains("no GPU was named") && Contains("--gpu"));
  const auto text = describe_speed(config, kPublished, "h100");
  for (const auto* expected : {"predicted on h100 (989.5 TFLOP/s dense bf16", "not measured", "experts",
                               "collectives not hidden", "tokens/s per GPU", "with causal attention",
                               "with full attention", "planned memory"})
    CHECK_THAT(text, Contains(expected));
  CHECK_THAT(text, !Contains("does not fit"));
  CHECK_THAT(describe_speed(config, {}, "h100"), Contains("does not fit"));
  config.train.device = DeviceKind::cpu;
  CHECK(describe_speed(config, kPublished, "").empty());
  config.train.compute_dtype = ComputeDtype::float32;
  CHECK_THROWS_WITH(describe_speed(config, kPublished, "h100"), Contains("train.compute_dtype"));
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.train.expert_kernels = kernels::ExpertKernels::fused;
  CHECK_THROWS_WITH(describe_speed(config, kPublished, "h100"), Contains("train.expert_kernels"));
}
