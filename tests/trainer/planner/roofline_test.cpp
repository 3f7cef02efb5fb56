#include "trainer/planner/roofline.h"

#include <algorithm>

#include "model/flops.h"
#include "support/catch.h"
#include "trainer/planner/collective_bytes.h"
#include "trainer/planner/step_variants.h"
#include "trainer/planner/transfer_time.h"

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

StepWork work_of(const Config& config, MeshShape mesh = kPublished) {
  return count_step_work(config, ModelOnMesh(config, mesh));
}

const Work& part(const StepWork& work, std::string_view name) {
  const auto found = std::find_if(work.parts.begin(), work.parts.end(), [&](auto& p) { return p.name == name; });
  REQUIRE(found != work.parts.end());
  return *found;
}

double executed_flops(const StepWork& work) {
  double sum = 0;
  for (const auto& p : work.parts) sum += p.forward.flops + p.backward.flops + p.update.flops;
  return sum;
}

}  // namespace

TEST_CASE("a GPU's peak is that of its multiprocessors at boost clock, its bandwidth that of its memory bus") {
  struct Hardware {
    const char* name;
    double boost_hz, flop_per_cycle, bus_bits, bit_per_s_per_pin;
  };
  // FLOPs in bf16 of a multiprocessor's tensor cores. Source: NVIDIA's architecture white papers.
  const auto hardware = GENERATE(values<Hardware>({{"a100", 1.410e9, 2048, 5120, 3.186e9},
                                                   {"h100", 1.830e9, 4096, 5120, 5.235e9},
                                                   {"h200", 1.830e9, 4096, 6144, 6.25e9},
                                                   {"b200", 1.856e9, 8192, 8192, 7.52e9}}));
  CAPTURE(hardware.name);
  const auto& gpu = find_gpu(hardware.name);
  CHECK(gpu.bf16_flop_per_s == Approx(gpu.multiprocessors * hardware.boost_hz * hardware.flop_per_cycle).epsilon(2e-3));
  CHECK(gpu.memory_byte_per_s == Approx(hardware.bus_bits * hardware.bit_per_s_per_pin / 8).epsilon(2e-3));
}

TEST_CASE("a GPU that is not known is refused, and those that are known are named") {
  CHECK_THROWS_AS(find_gpu("h800"), ConfigError);
  CHECK_THROWS_WITH(find_gpu("h800"), Contains("h800") && Contains("a100, b200, h100, h200"));
  CHECK_THROWS_WITH(describe_speed(published(), kPublished, "H100"), Contains("a100, b200, h100, h200"));
}

TEST_CASE("a step's FLOPs: three times the forward, and recomputation") {
  const auto config = published();
  const auto work = work_of(config);
  CHECK(work.tokens == 1024 * 4096 / 256);
  const auto flops = count_forward_flops(config.model, config.data.sequence_length);
  const double again = 0.5 * flops.attention;  // scores
  CHECK(executed_flops(work) == Approx(work.tokens * (3 * flops.total() + again)).epsilon(1e-12));

  const auto recomputed = work_of(published("olmoe-1b-7b", {"train.recompute=full"}));
  const double blocks = flops.total() - flops.head;
  CHECK(executed_flops(recomputed) == Approx(executed_flops(work) + work.tokens * blocks).epsilon(1e-12));

  const auto selective = work_of(published("olmoe-1b-7b", {"train.recompute=selective"}));
  CHECK(executed_flops(selective) == Approx(executed_flops(work) + work.tokens * flops.router).epsilon(1e-12));
}

TEST_CASE("attention kernels: the same FLOPs, and bytes of their backward") {
  const auto work = [](const std::string& kernel, const std::string& deterministic) {
    return work_of(published("olmoe-1b-7b",
                             {"train.attention_kernel=" + kernel, "train.deterministic_attention=" + deterministic}));
  };
  const auto flash = work("flash", "true"), flash_any = work("flash", "false"), cudnn = work("cudnn", "true"),
             cudnn_any = work("cudnn", "false");
  const double flops = executed_flops(flash), rows = 16384. * 16, sums = rows * 2048 * 4;
  for (const auto* other : {&flash_any, &cudnn, &cudnn_any})
    CHECK(executed_flops(*other) == Approx(flops).epsilon(1e-12));
  CHECK(part(flash, "attention core").backward.split.heads == 64);
  CHECK(part(flash, "attention core").backward.split.copy_bytes == 3 * sums);
  for (const auto* other : {&flash_any, &cudnn, &cudnn_any})
    CHECK(part(*other, "attention core").backward.split.heads == 0);
  // The gradients of all scores of 16 heads, written, and read by the last product.
  const double score_grads = rows * 16 * 4096 * 2;
  CHECK(score_grads / 16 == 4. * 16 * 4096 * 4096 * 2);  // of a layer: nearly all of cuDNN's workspace
  CHECK(part(cudnn, "attention core").backward.bytes == part(cudnn_any, "attention core").backward.bytes + score_grads);
  CHECK(part(cudnn, "attention's dq").backward.bytes == score_grads + 2 * rows * 2048 * 2);
  CHECK(part(cudnn, "attention's dq").backward.flops == 0.5 * part(cudnn, "attention core").forward.flops);
}

TEST_CASE("predicted attention: cuDNN before FlashAttention-2, any order before a fixed one") {
  const auto step_s = [](const std::string& kernel, const std::string& deterministic) {
    return predict(published("olmoe-1b-7b",
                             {"train.attention_kernel=" + kernel, "train.deterministic_attention=" + deterministic}),
                   "h100")
        .compute_s;
  };
  CHECK(step_s("cudnn", "false") < step_s("cudnn", "true"));
  CHECK(step_s("cudnn", "true") < step_s("flash", "true"));
  CHECK(step_s("flash", "false") < step_s("flash", "true"));
  CHECK(step_s("cudnn", "false") < step_s("flash", "false"));
}

TEST_CASE("a step's bytes, by hand") {
  const auto work = work_of(published());
  const double rows = 16384. * 8 * 16;  // of all blocks
  CHECK(part(work, "permute").forward.bytes == rows * 2 * 2048 * 2);
  CHECK(part(work, "SwiGLU").backward.bytes == rows * 6 * 1024 * 2);
  CHECK(part(work, "cross-entropy").forward.bytes == 16384. * 50304 * 2);
  CHECK(part(work, "cross-entropy").backward.bytes == 16384. * 50304 * 2);  // logits are made once
  const auto selective = work_of(published("olmoe-1b-7b", {"train.recompute=selective"}));
  const double one_norm = 16384. * 16 * 2048 * 2 * 2;  // of all blocks
  CHECK(part(selective, "norms").backward.bytes == part(work, "norms").backward.bytes + 3 * one_norm);
  CHECK(part(selective, "SwiGLU").backward.bytes == part(work, "SwiGLU").backward.bytes);
  CHECK(part(work, "AdamW and gradient norm").update.bytes == Approx(6919161856. / 256 * 36).epsilon(1e-3));
}

TEST_CASE("a rank with an eighth of the experts computes as many rows with an eighth of the weights") {
  const auto config = published();
  const auto all = work_of(config), eighth = work_of(config, {1, 256, 8});
  CHECK(executed_flops(eighth) == Approx(executed_flops(all)).epsilon(1e-12));
  CHECK(part(eighth, "permute").forward.bytes == part(all, "permute").forward.bytes);
  CHECK(part(eighth, "expert gradient sums").backward.bytes == part(all, "expert gradient sums").backward.bytes / 8);
  CHECK(part(eighth, "AdamW and gradient norm").update.bytes ==
        Approx(part(all, "AdamW and gradient norm").update.bytes).epsilon(1e-3));  // but for padding
  const double token = 16384. * 16 * 2048 * 2, ranks = expected_copies(64, 8, 8) * 8 / 7;
  CHECK(part(eighth, "dispatch").forward.bytes == Approx(token * (3 * ranks + 2)));
  CHECK(predict_step(config, {1, 256, 8}, find_gpu("h100")).exposed_s >
        predict_step(config, kPublished, find_gpu("h100")).exposed_s);
}

TEST_CASE("chunks of a micro-batch overlap dispatch and combine; nothing does without overlap") {
  const MeshShape mesh{1, 64, 8};
  const auto exposed = [&](const std::vector<std::string>& overrides) {
    return predict_step(published("olmoe-1b-7b", overrides), mesh, find_gpu("h100"));
  };
  const auto whole = exposed({}), chunks = exposed({"parallel.expert_chunks=4"}),
             alone = exposed({"parallel.overlap=false"});
  CHECK(chunks.exposed_s < whole.exposed_s);
  CHECK(chunks.exposed_s > 0);
  CHECK(alone.exposed_s == alone.transfer_s);
  CHECK(alone.step_s == alone.serial_step_s);
  CHECK_THROWS_WITH(exposed({"parallel.transport=host"}), Contains("parallel.transport"));
}

TEST_CASE("the busiest rank sets the pace") {
  const auto tokens = [](int64_t global, int64_t micro, int ranks) {
    const auto config = published("olmoe-1b-7b", {fmt::format("train.global_batch_size={}", global),
                                                  fmt::format("train.micro_batch_size={}", micro)});
    return work_of(config, {1, ranks, 1}).tokens / 4096;
  };
  CHECK(tokens(8, 4, 2) == 4);
  CHECK(tokens(10, 4, 2) == 6);  // 4, 4 and 2: the first rank has 4 and 2
  CHECK(tokens(14, 4, 2) == 8);  // 4, 4, 4 and 2: the first rank has 4 and 4
  CHECK(tokens(3, 4, 2) == 3);
}

TEST_CASE("a faster GPU takes a shorter step, and no step is shorter than its FLOPs or bytes at peak") {
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
      const auto work = work_of(config);
      double bytes = 0;
      for (const auto& part : work.parts) bytes += part.forward.bytes + part.backward.bytes + part.update.bytes;
      CHECK(p.compute_s > executed_flops(work) / gpu.bf16_flop_per_s);
      CHECK(p.compute_s > bytes / gpu.memory_byte_per_s);
    }
  }
}

TEST_CASE("the expected step is between all assumptions at their slow and at their fast end") {
  for (const auto* name : {"olmoe-1b-7b", "olmo-1b-dense"})
    for (const auto& gpu : known_gpus()) {
      const auto config = published(name);
      const ModelOnMesh model(config, kPublished);
      const auto range = predict_range(config, model, gpu);
      const double expected_s = predict_step(config, model, gpu).step_s;
      CHECK(range.fast_s < expected_s);
      CHECK(expected_s < range.slow_s);
      CHECK_THAT(describe_speed(config, kPublished, std::string(gpu.name)),
                 Contains(fmt::format("predicted step: {:.1f} ms ({:.0f} to {:.0f})", expected_s * 1e3,
                                      range.fast_s * 1e3, range.slow_s * 1e3)));
    }
}

TEST_CASE("an H100's grouped GEMMs are modelled by tiles, a B200's as a share of its peak") {
  const auto config = published();
  const auto experts_s = [&](const GpuSpecs& gpu) {
    const auto step = predict_step(config, kPublished, gpu);
    return std::find_if(step.parts.begin(), step.parts.end(), [](auto& p) { return p.name == "experts"; })->seconds;
  };
  const double base_s = experts_s(find_gpu("h100"));
  const auto work = work_of(config);
  const auto& part_of = part(work, "experts");
  CHECK(experts_s(find_gpu("b200")) == Approx((part_of.forward.flops + part_of.backward.flops) / (0.5 * 2250e12)));
  // A quarter of the rows for each expert fills tiles less well.
  const auto quarter = published("olmoe-1b-7b", {"train.micro_batch_size=1"});
  const auto step = predict_step(quarter, kPublished, find_gpu("h100"));
  const auto found = std::find_if(step.parts.begin(), step.parts.end(), [](auto& p) { return p.name == "experts"; });
  CHECK(found->seconds > 1.05 * base_s);
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
  CHECK(with(&GpuSpecs::nvlink_byte_per_s, {1, 8, 1}).transfer_s < predict_step(config, {1, 8, 1}, gpu).transfer_s);
  CHECK(with(&GpuSpecs::network_byte_per_s, {1, 8, 1}).transfer_s == predict_step(config, {1, 8, 1}, gpu).transfer_s);
  CHECK(alone.transfer_s == 0);
  CHECK(alone.exposed_s == 0);
}

TEST_CASE("gathering OLMoE-1B-7B takes 35 to 45 ms on 256 H100, of which 17 ring starts take 20") {
  const auto& gpu = find_gpu("h100");
  const RankGroup group{256, 1};
  const double start_s = gather_seconds(0, group, gpu), whole_s = gather_seconds(6919161856. * 2, group, gpu);
  CHECK(whole_s - start_s > 0.035);
  CHECK(whole_s - start_s < 0.045);
  CHECK(start_s == Approx(8.4e-6 + 224 * 3.4e-6 + 31 * 14e-6));
}

TEST_CASE("a group's links: NVLink inside a node, adapters between nodes") {
  const auto& gpu = find_gpu("h100");
  CHECK(RankGroup{8, 1}.nodes() == 1);
  CHECK(RankGroup{16, 1}.nodes() == 2);
  CHECK(RankGroup{4, 2}.nodes() == 1);
  CHECK(RankGroup{8, 2}.nodes() == 2);
  CHECK(RankGroup{32, 8}.nodes() == 32);
  CHECK(RankGroup{32, 256}.nodes() == 32);
  const auto bandwidth = [&](auto seconds, RankGroup group) {  // of 1 GB, without latency
    return 1e9 / (seconds(1e9, group, gpu) - seconds(0, group, gpu));
  };
  CHECK(bandwidth(gather_seconds, {8, 1}) == Approx(0.8 * 450e9 * 8 / 7));
  CHECK(bandwidth(gather_seconds, {2, 8}) == Approx(0.8 * 50e9 * 2));
  CHECK(bandwidth(exchange_seconds, {8, 1}) == Approx(0.8 * 450e9));
  CHECK(bandwidth(exchange_seconds, {16, 1}) == Approx(0.8 * 50e9 * 15 / 8));
  CHECK(gather_seconds(1e9, {1, 1}, gpu) == 0);
  CHECK(exchange_seconds(1e9, {1, 1}, gpu) == 0);
}

TEST_CASE("what is printed of a prediction") {
  auto config = published();
  CHECK_THAT(describe_speed(config, kPublished, ""), Contains("no GPU was named") && Contains("--gpu"));
  const auto text = describe_speed(config, kPublished, "h100");
  for (const auto* expected :
       {"predicted on h100 (989.5 TFLOP/s dense bf16", "not measured", "experts", "collectives not hidden",
        "tokens/s per GPU", "with causal attention", "with full attention", "planned memory"})
    CHECK_THAT(text, Contains(expected));
  CHECK_THAT(text, !Contains("does not fit"));
  CHECK_THAT(describe_speed(config, {}, "h100"), Contains("does not fit"));
  config.train.device = DeviceKind::cpu;
  CHECK(describe_speed(config, kPublished, "").empty());
  config.train.compute_dtype = ComputeDtype::float32;
  CHECK_THROWS_WITH(describe_speed(config, kPublished, "h100"), Contains("train.compute_dtype"));
}

TEST_CASE("fused experts have no permutation, SwiGLU or gradient kernels of their own") {
  const auto work = [](const char* experts, int ranks) {
    return work_of(published("olmoe-1b-7b", {fmt::format("train.expert_kernels={}", experts)}), {1, ranks, 1});
  };
  const auto unfused = work("unfused", 256), fused = work("fused", 256);
  CHECK(executed_flops(fused) == Approx(executed_flops(unfused)).epsilon(1e-12));
  const auto has = [&](std::string_view name) {
    return std::any_of(fused.parts.begin(), fused.parts.end(), [&](auto& p) { return p.name == name; });
  };
  for (const auto* name : {"permute", "SwiGLU", "expert gradient sums"}) CHECK_FALSE(has(name));
  CHECK(part(fused, "combine").forward.bytes == part(unfused, "combine").forward.bytes);
  const double gated = 16384. * 8 * 16 * 1024 * 2, elements = 16. * 64 * 3 * 2048 * 1024;
  const auto &with = part(fused, "experts"), &without = part(unfused, "experts");
  CHECK(with.forward.bytes == without.forward.bytes + gated);
  // One micro-batch a step stores its fp32 gradients over the old ones; unfused, bf16 ones are written.
  CHECK(with.backward.bytes == without.backward.bytes + 4 * gated + (4 - 2) * elements);
  CHECK(part(unfused, "expert gradient sums").backward.bytes == (2 + 4) * elements);
}

TEST_CASE("experts' gradients are added with more micro-batches than reductions, and in a group of one") {
  const auto grads = [](int ranks,
                        const std::string& stage) {  // bytes of an element, with the micro-batches of so many ranks
    const auto work = work_of(
        published("olmoe-1b-7b", {"train.global_batch_size=1024", "parallel.zero_stage=" + stage}), {1, ranks, 1});
    const double micro_batches = 256. / ranks, elements = micro_batches * 16. * 64 * 3 * 2048 * 1024;
    return part(work, "expert gradient sums").backward.bytes / elements;
  };
  CHECK(grads(256, "2") == 2 + 4);
  CHECK(grads(64, "2") == 2 + 4);  // reduced after each micro-batch
  CHECK(grads(64, "1") == 2 + 7);  // once a step: the first of four stores
  CHECK(grads(1, "1") == 2 + 8);
  const auto buffers = [](const KernelForms& forms) {
    const auto config = published();
    return part(count_step_work(config, ModelOnMesh(config, kPublished), forms), "gradient buffers").backward.bytes;
  };
  const auto adding = unfused_experts()[0];
  CHECK(buffers({.experts = &adding}) - buffers({}) == Approx(16. * 64 * 3 * 2048 * 1024 * 4).epsilon(1e-4));
}

TEST_CASE("a step is also predicted with fused experts and as a CUDA graph") {
  const auto config = published();
  const auto& h100 = find_gpu("h100");
  const ModelOnMesh model(config, kPublished);
  const auto variants = predict_variants(config, model, h100);
  REQUIRE(variants.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    const bool fused = i >= 2, graph = i % 2 == 1;
    REQUIRE(variants[i].step);
    CHECK(variants[i].refused.empty());
    CHECK((variants[i].expert_kernels == kernels::ExpertKernels::fused) == fused);
    CHECK(variants[i].cuda_graph == graph);
    const std::string kernels = fused ? "fused" : "unfused", captured = graph ? "true" : "false";
    const auto asked =
        predict(published("olmoe-1b-7b", {"train.expert_kernels=" + kernels, "train.cuda_graph=" + captured}), "h100");
    CHECK(variants[i].step->step_s == asked.step_s);
  }
  // Without gaps between kernels, but for the share of a graph.
  CHECK(variants[1].step->compute_s * 1.03 == Approx(variants[0].step->compute_s * 1.005));
  CHECK(variants[0].step->step_s == predict(config, "h100").step_s);
  CHECK(variants[2].step->step_s != variants[0].step->step_s);

  const auto lines = describe_speed(config, kPublished, "h100");
  for (const size_t i : {0, 2}) {
    const auto &plain = *variants[i].step, &graph = *variants[i + 1].step;
    CHECK_THAT(lines, Contains(fmt::format("predicted with {} experts: {:.1f} ms, {:.0f} tokens/s per GPU; with a CUDA "
                                           "graph {:.1f} ms",
                                           i == 0 ? "unfused" : "fused", plain.step_s * 1e3, plain.token_per_s,
                                           graph.step_s * 1e3)));
  }
}

TEST_CASE("a step that a run would refuse is not predicted, and the line says why") {
  const auto speed = [](const std::vector<std::string>& overrides, const char* gpu, const char* name = "olmoe-1b-7b") {
    return describe_speed(published(name, overrides), kPublished, gpu);
  };
  CHECK_THAT(speed({}, "a100"), Contains("with fused experts: refused (train.expert_kernels: the fused kernels are for "
                                         "compute capability 9.0, not a100)") &&
                                    Contains("with a CUDA graph refused (train.cuda_graph: on a100"));
  CHECK_THAT(speed({}, "b200"), Contains("with fused experts: refused") && Contains("predicted with unfused experts") &&
                                    !Contains("with a CUDA graph refused (train.cuda_graph"));
  CHECK_THAT(speed({"model.expert_width=512", "model.top_k=16"}, "h100"), !Contains("refused"));
  CHECK_THAT(speed({"model.expert_width=128"}, "h100"),
             Contains("with fused experts: refused (train.expert_kernels: fused needs model.d_model"));
  CHECK_THAT(speed({"model.capacity_factor=1.25"}, "h100"),
             Contains("with a CUDA graph refused (train.cuda_graph: not with model.capacity_factor"));
  const std::vector<std::string> cudnn{"train.attention_kernel=cudnn"};
  CHECK_THAT(speed(cudnn, "h100"), !Contains("refused"));
  for (const auto* name : {"olmoe-1b-7b", "olmo-1b-dense"})
    CHECK_THAT(speed(cudnn, "b200", name), Contains("refused (train.attention_kernel: cuDNN's attention is used on "));
  const auto dense = speed({}, "a100", "olmo-1b-dense");
  CHECK_THAT(dense, Contains("predicted with dense feed-forward: "));
  CHECK_THAT(dense, !Contains("refused") && !Contains("fused experts"));
}
