#include "trainer/planner/kernel_forms.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "support/catch.h"
#include "trainer/planner/kernel_report.h"
#include "trainer/planner/roofline.h"

namespace {

using namespace olmoe;
using Catch::Contains;

constexpr double kPerTile = 128 * 256 * 64 * 2 / 4096.;  // cycles of 64 of K at full rate
constexpr double kStart = 300;                           // of a tile

/// So that cycles are seconds, and nothing waits for memory.
GpuRates plain_rates(int multiprocessors = 1) {
  auto rates = rates_of(find_gpu("h100"), Outlook::expected);
  rates.multiprocessors = multiprocessors;
  rates.clock_hz = rates.main_loop = rates.epilogue = 1;
  rates.l2_cycles = 300;
  return rates;
}

GroupedProduct of_one_expert(TileKernel kernel, double rows, int64_t n, int64_t k) {
  return {{"product", rows, 1, 0, n, k, 0}, kernel};
}

double cycles(const GroupedProduct& product, const GpuRates& rates) { return product_time(product, rates).seconds; }

/// The experts of one layer of OLMoE-1B-7B for 4 x 4,096 tokens, computed in this form.
Work experts_of_a_layer(const ExpertForm& form) {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml",
                                  {"model.num_layers=1", "train.global_batch_size=4", "train.micro_batch_size=4"});
  const auto work = count_step_work(config, ModelOnMesh(config, {}), {.experts = &form});
  return *std::ranges::find(work.parts, "experts", &Work::name);
}

}  // namespace

TEST_CASE("a grouped GEMM takes the time of the busiest block's tiles") {
  const TileKernel kernel{.efficiency = 0.5, .epilogue = 1000};
  const double tile = 32 * kPerTile / 0.5 + 1000 + kStart;
  CHECK(cycles(of_one_expert(kernel, 128, 256, 2048), plain_rates()) == tile);
  CHECK(cycles(of_one_expert(kernel, 129, 256, 2048), plain_rates()) == 2 * tile);  // the second is almost empty
  CHECK(cycles(of_one_expert(kernel, 128, 257, 2048), plain_rates()) == 2 * tile);
  CHECK(cycles(of_one_expert(kernel, 1280, 256, 2048), plain_rates(4)) == 3 * tile);
  CHECK(cycles(of_one_expert(kernel, 0, 256, 2048), plain_rates()) == 0);
}

TEST_CASE("a weight gradient's tiles are cut from the weights, and as deep as an expert's rows") {
  const TileKernel kernel{.efficiency = 1, .epilogue = 0};
  const GroupedProduct product{{"gradient", 65, 1, 256, 512, 0, 0}, kernel};
  CHECK(cycles(product, plain_rates()) == 4 * (2 * kPerTile + kStart));
  CHECK(product.gemm.flops() == 2. * 65 * 256 * 512);
}

TEST_CASE("clusters pad an expert's rows to whole clusters") {
  const TileKernel alone{.efficiency = 1, .epilogue = 0}, pairs{.efficiency = 1, .epilogue = 0, .cluster = 2};
  CHECK(cycles(of_one_expert(pairs, 384, 256, 64), plain_rates()) ==
        4. / 3 * cycles(of_one_expert(alone, 384, 256, 64), plain_rates()));
}

TEST_CASE("ping-pong tiles overlap the epilogue with another tile's main loop") {
  TileKernel kernel{.efficiency = 1, .epilogue = 500, .ping_pong = true};
  CHECK(cycles(of_one_expert(kernel, 128, 256, 64), plain_rates()) == kPerTile);
  kernel.epilogue = 3 * kPerTile;
  CHECK(cycles(of_one_expert(kernel, 128, 256, 64), plain_rates()) == 2 * kPerTile);
}

TEST_CASE("a tile waits for its loading warps, and they for dependent loads") {
  TileKernel kernel{.efficiency = 1, .epilogue = 0, .k_tile = {100, 8}, .start = {50, 1}};
  const auto slow = product_time(of_one_expert(kernel, 128, 256, 128), plain_rates());
  CHECK(slow.seconds == 2 * (100 + 8 * 300) + 50 + 300);
  CHECK(slow.limit == Limit::loading_warps);
  kernel.k_tile = {100, 1};
  const auto fast = product_time(of_one_expert(kernel, 128, 256, 128), plain_rates());
  CHECK(fast.seconds == 2 * kPerTile + kStart);
  CHECK(fast.limit == Limit::tensor_cores);
  auto moves = of_one_expert(kernel, 128, 256, 128);
  moves.gemm.bytes = 1e16;
  CHECK(product_time(moves, plain_rates()).limit == Limit::memory);
  CHECK(product_time(moves, plain_rates()).seconds == Approx(1e16 / (0.8 * 3.35e12)));
}

TEST_CASE("a tile counter balances experts of different sizes") {
  const TileKernel kernel{.efficiency = 1, .epilogue = 0};
  GroupedProduct product{{"gradient", 131072, 64, 2048, 1024, 0, 0}, kernel};
  const double even = cycles(product, plain_rates(1)) / 132, fixed = cycles(product, plain_rates(132));
  product.kernel.counter = true;
  const double counted = cycles(product, plain_rates(132));
  CHECK(counted < fixed);
  CHECK(counted >= even);
  CHECK(counted < 1.03 * even);  // 32 tiles a block
}

TEST_CASE("grouped GEMMs of a layer have the model's FLOPs, and one form of fused kernels is built") {
  const auto check_form = [&](const ExpertForm& form) {
    const auto experts = experts_of_a_layer(form);
    CHECK(experts.forward.flops == 6. * 131072 * 2048 * 1024);
    CHECK(experts.backward.flops == 12. * 131072 * 2048 * 1024);
    for (const auto* way : {&experts.forward, &experts.backward}) {
      double sum = 0;
      for (const auto& gemm : way->gemms) sum += gemm.launches * gemm.flops();
      CHECK(sum == way->flops);
    }
  };
  check_form(sonic_moe_experts());
  for (const auto& forms : {unfused_experts(), fused_experts()}) {
    for (const auto& form : forms) check_form(form);
    CHECK(std::count_if(forms.begin(), forms.end(), [](auto& form) { return form.state == FormState::built; }) == 1);
    CHECK(std::is_sorted(forms.begin(), forms.end(), [](auto& a, auto& b) { return a.state < b.state; }));
  }
  for (const auto kind : {kernels::ExpertKernels::unfused, kernels::ExpertKernels::fused}) {
    CHECK(built_experts(kind).state == FormState::built);
    CHECK(built_experts(kind).fused == (kind == kernels::ExpertKernels::fused));
  }
}

TEST_CASE("no change to the fused kernels is predicted to make a layer slower") {
  for (const auto outlook : {Outlook::slow, Outlook::expected, Outlook::fast}) {
    const auto rates = rates_of(find_gpu("h100"), outlook);
    double last_s = 1;
    for (const auto& form : fused_experts()) {
      double sum_s = 0;
      const auto experts = experts_of_a_layer(form);
      for (const auto* way : {&experts.forward, &experts.backward})
        for (const auto& gemm : way->gemms) sum_s += product_time({gemm, form.kernel_of(gemm.name)}, rates).seconds;
      INFO(form.name);
      CHECK(sum_s <= last_s);
      last_s = sum_s;
    }
  }
}

TEST_CASE("deterministic attention of 64 heads fills 192 of two turns of 132 blocks") {
  const Work attention{"attention core", Bound::attention, {}, {1e12, 0, {}, {64, 0}}, {}};
  const auto rates = rates_of(find_gpu("h100"), Outlook::expected);
  const auto seconds = [&](Work work) {
    return part_seconds(work, {AttentionForm::flash_deterministic, nullptr}, rates).backward;
  };
  CHECK(seconds(attention) == Approx(1e12 / rates.flash_backward * 264 / 192));
  auto copies = attention;
  copies.backward.split.copy_bytes = 1e9;
  CHECK(seconds(copies) - seconds(attention) == Approx(2e9 / rates.memory_byte_per_s));  // beyond the first of three
  auto many = attention;
  many.backward.split.heads = 132;
  CHECK(seconds(many) == Approx(1e12 / rates.flash_backward));
  auto whole = attention;
  whole.backward.split = {};
  CHECK(seconds(whole) == Approx(1e12 / rates.flash_backward));
}

TEST_CASE("a run's attention is that of its two keys, and no other kernel's") {
  using kernels::AttentionKernel;
  CHECK(built_attention(AttentionKernel::flash, true) == AttentionForm::flash_deterministic);
  CHECK(built_attention(AttentionKernel::flash, false) == AttentionForm::flash);
  CHECK(built_attention(AttentionKernel::cudnn, true) == AttentionForm::cudnn_deterministic);
  CHECK(built_attention(AttentionKernel::cudnn, false) == AttentionForm::cudnn);
}

TEST_CASE("what is printed of single kernels says that it is predicted, and adds up") {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", {});
  const MeshShape mesh{1, 256, 1};
  const auto& h100 = find_gpu("h100");
  const auto json = nlohmann::json::parse(kernels_json(config, mesh, h100));
  CHECK(json["predicted"] == "no GPU has confirmed any of these figures");
  CHECK(json["tokens"] == 16384);
  const auto rates = rates_of(h100, Outlook::expected);
  for (const auto& layer : json["layers"])
    for (const auto* way : {"forward", "backward"}) {
      double sum_s = rates.short_kernels_s;
      for (const auto& kernel : layer[way]["kernels"]) sum_s += kernel["seconds"].get<double>();
      CHECK(layer[way]["seconds"].get<double>() == Approx(sum_s));
      const auto& rate = layer[way]["tflop_per_s"];
      const double flops = (way == std::string("forward") ? 6. : 12.) * 16384 * 8 * 2048 * 1024;
      CHECK(rate["expected"].get<double>() == Approx(flops / sum_s / 1e12));
      CHECK(rate["slow"].get<double>() < rate["expected"].get<double>());
      CHECK(rate["expected"].get<double>() < rate["fast"].get<double>());
      CHECK(layer[way]["with_router_tflop_per_s"]["expected"] < rate["expected"]);
    }
  const auto cublas = product_time(large_product(), rates);
  CHECK(json["large_product"]["tflop_per_s"]["expected"].get<double>() ==
        Approx(2 * std::pow(8192., 3) / cublas.seconds / 1e12));
  // The steps that a run has are the ones of the planner.
  const auto step_of = [&](const char* form) {
    for (const auto& step : json["steps"])
      if (step["form"] == form && step["state"] == "built") return step["step_s"].get<double>();
    FAIL("no step " << form);
    return 0.;
  };
  const auto predict = [&](const char* experts, std::vector<std::string> keys = {}) {
    keys.push_back(fmt::format("train.expert_kernels={}", experts));
    const auto with = load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", keys);
    return predict_step(with, mesh, h100).step_s;
  };
  CHECK(step_of("unfused") == predict("unfused"));
  CHECK(step_of(std::string(built_experts(kernels::ExpertKernels::fused).name).c_str()) == predict("fused"));
  const std::string cudnn = "train.attention_kernel=cudnn", any_order = "train.deterministic_attention=false";
  for (const auto& [form, keys] : {std::pair<const char*, std::vector<std::string>>{"unfused, cudnn", {cudnn}},
                                   {"unfused, flash in any order", {any_order}},
                                   {"unfused, cudnn in any order", {cudnn, any_order}}})
    CHECK(step_of(form) == predict("unfused", keys));
  CHECK(step_of("fused, cudnn") == predict("fused", {cudnn}));
  // One micro-batch a step: 16 layers of what is said of one.
  REQUIRE(json["attention"].size() == 4);
  for (const auto& one : json["attention"]) {
    const double layer_s = one["forward"]["seconds"].get<double>() + one["backward"]["seconds"].get<double>();
    for (const auto& step : json["steps"]) {
      if (step["attention"] != one["form"]) continue;
      const auto& parts = step["parts_s"];
      CHECK(16 * layer_s == Approx(parts["attention core"].get<double>() + parts.value("attention's dq", 0.)));
    }
    for (const auto* way : {"forward", "backward"}) {
      CHECK(one[way]["fast_s"].get<double>() < one[way]["seconds"].get<double>());
      CHECK(one[way]["seconds"].get<double>() < one[way]["slow_s"].get<double>());
    }
  }
  CHECK_THROWS_WITH(kernels_json(config, mesh, find_gpu("b200")), Contains("compute capability 9.0, not b200"));
  auto changed = config;
  changed.model.dense_layers = 1;  // the layer is one with experts all the same
  CHECK(nlohmann::json::parse(kernels_json(changed, mesh, h100))["layers"] == json["layers"]);
  changed.model.layer_widths.assign(16, 1024);
  CHECK_THROWS_WITH(kernels_json(changed, mesh, h100), Contains("model.layer_widths"));
  const auto dense =
      nlohmann::json::parse(kernels_json(load_config(OLMOE_SOURCE_DIR "/configs/olmo-1b-dense.yaml", {}), mesh, h100));
  CHECK(dense["layers"].empty());
  CHECK(dense["steps"].size() == 2 + 3);
}
