#include "trainer/planner/kernel_report.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "trainer/planner/roofline.h"

namespace olmoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kOutlooks{Outlook::expected, Outlook::slow, Outlook::fast};
constexpr std::array<std::string_view, 3> kOutlookNames{"expected", "slow", "fast"};

std::string_view name_of(FormState state) {
  switch (state) {
    case FormState::replaced:
      return "replaced";
    case FormState::built:
      return "built";
    case FormState::not_built:
      return "not built";
    case FormState::peer:
      return "another program";
  }
  throw Error("unreachable state of a form");
}

std::string_view name_of(Limit limit) {
  switch (limit) {
    case Limit::tensor_cores:
      return "tensor cores";
    case Limit::loading_warps:
      return "loading warps";
    case Limit::memory:
      return "memory";
  }
  throw Error("unreachable limit");
}

/// The config with one layer, which has experts if any has, and one micro-batch, on one rank.
Config one_layer(Config config) {
  config.model.num_layers = config.model.moe_every = 1;
  config.model.dense_layers = 0;
  config.train.global_batch_size = config.train.micro_batch_size;
  config.train.recompute = Recompute::none;
  return config;
}

bool is_of_layer(std::string_view part) {
  constexpr std::array<std::string_view, 5> kParts{"experts", "SwiGLU", "permute", "combine", "expert gradient sums"};
  return std::find(kParts.begin(), kParts.end(), part) != kParts.end();
}
bool is_of_router(std::string_view part) { return part == "router product" || part == "routing"; }

/// Seconds of one layer's experts, forward or backward, by outlook.
struct WaySeconds {
  std::array<double, 3> experts, router;
};

struct LayerSeconds {
  WaySeconds forward, backward;
};

LayerSeconds layer_seconds(const StepWork& work, const GpuSpecs& gpu) {
  LayerSeconds out{};
  for (size_t i = 0; i < kOutlooks.size(); ++i) {
    const auto rates = rates_of(gpu, kOutlooks[i]);
    out.forward.experts[i] = out.backward.experts[i] = rates.short_kernels_s;
    for (const auto& part : work.parts) {
      const auto time = part_seconds(part, work.kernels, rates);
      if (is_of_layer(part.name)) out.forward.experts[i] += time.forward, out.backward.experts[i] += time.backward;
      if (is_of_router(part.name)) out.forward.router[i] += time.forward, out.backward.router[i] += time.backward;
    }
  }
  return out;
}

/// The expected value, and the slow and the fast end.
Json rates_json(const std::array<double, 3>& seconds, double flops) {
  Json out;
  for (size_t i = 0; i < kOutlooks.size(); ++i) out[std::string(kOutlookNames[i])] = flops / seconds[i] / 1e12;
  return out;
}

Json json_of(const WaySeconds& way, double flops) {
  auto with_router = way.experts;
  for (size_t i = 0; i < kOutlooks.size(); ++i) with_router[i] += way.router[i];
  return {{"seconds", way.experts[0]},
          {"tflop_per_s", rates_json(way.experts, flops)},
          {"with_router_tflop_per_s", rates_json(with_router, flops)}};
}

Json json_of(const GroupedProduct& product, const GpuSpecs& gpu) {
  const auto at = [&](Outlook outlook) { return product_time(product, rates_of(gpu, outlook)); };
  const auto time = at(Outlook::expected);
  return {{"kernel", product.gemm.name},
          {"seconds", time.seconds},
          {"fast_s", at(Outlook::fast).seconds},
          {"slow_s", at(Outlook::slow).seconds},
          {"tflop_per_s", product.gemm.flops() / time.seconds / 1e12},
          {"memory_s", time.memory_s},
          {"epilogue_share", time.epilogue},
          {"limit", name_of(time.limit)}};
}

/// Kernels of the layer that only move rows, in one direction.
Json json_of(std::string_view name, double seconds) {
  return {{"kernel", name}, {"seconds", seconds}, {"memory_s", seconds}, {"limit", name_of(Limit::memory)}};
}

Json kernels_of(const StepWork& work, const GpuSpecs& gpu, Cost Work::*way, double PartSeconds::*seconds) {
  Json out = Json::array();
  for (const auto& part : work.parts) {
    if (!is_of_layer(part.name)) continue;
    for (const auto& gemm : (part.*way).gemms)
      out.push_back(json_of({gemm, work.kernels.experts->kernel_of(gemm.name)}, gpu));
    if ((part.*way).gemms.empty() && (part.*way).bytes > 0)
      out.push_back(json_of(part.name, part_seconds(part, work.kernels, rates_of(gpu, Outlook::expected)).*seconds));
  }
  return out;
}

Json large_product_json(const GpuSpecs& gpu) {
  std::array<double, 3> seconds{};
  for (size_t i = 0; i < kOutlooks.size(); ++i)
    seconds[i] = product_time(large_product(), rates_of(gpu, kOutlooks[i])).seconds;
  return {{"tflop_per_s", rates_json(seconds, large_product().gemm.flops())}};
}

Json layer_of(const Config& config, const ExpertForm& form, const GpuSpecs& gpu) {
  const auto single = one_layer(config);
  const auto work = count_step_work(single, ModelOnMesh(single, {}), {.experts = &form});
  const auto seconds = layer_seconds(work, gpu);
  const auto& experts =
      *std::find_if(work.parts.begin(), work.parts.end(), [](auto& p) { return p.name == "experts"; });
  auto forward = json_of(seconds.forward, experts.forward.flops);
  auto backward = json_of(seconds.backward, experts.backward.flops);
  forward["kernels"] = kernels_of(work, gpu, &Work::forward, &PartSeconds::forward);
  backward["kernels"] = kernels_of(work, gpu, &Work::backward, &PartSeconds::backward);
  return {{"form", form.name}, {"state", name_of(form.state)}, {"forward", forward}, {"backward", backward}};
}

/// One layer's attention without rotary embedding and projections: expected, at the slow and at the fast end.
Json attention_of(const Config& config, AttentionForm form, const GpuSpecs& gpu) {
  const auto single = one_layer(config);
  const auto work = count_step_work(single, ModelOnMesh(single, {}), {.attention = form});
  std::array<double, 3> forward{}, backward{};
  for (size_t i = 0; i < kOutlooks.size(); ++i)
    for (const auto& part : work.parts)
      if (part.bound == Bound::attention) {
        const auto time = part_seconds(part, work.kernels, rates_of(gpu, kOutlooks[i]));
        forward[i] += time.forward;
        backward[i] += time.backward;
      }
  const auto json = [](const std::array<double, 3>& s) {
    return Json{{"seconds", s[0]}, {"slow_s", s[1]}, {"fast_s", s[2]}};
  };
  return {{"form", name_of(form)}, {"forward", json(forward)}, {"backward", json(backward)}};
}

constexpr std::array kAttentions{AttentionForm::flash_deterministic, AttentionForm::flash,
                                 AttentionForm::cudnn_deterministic, AttentionForm::cudnn};

/// A step with the named kernels, and all others as in a run.
struct StepForm {
  std::string name;
  FormState state;
  std::string_view feed_forward;
  KernelForms forms;
};

/// The default attention, and the head that was built along with these experts.
StepForm with_experts(const ExpertForm& form) {
  const bool twice = form.state == FormState::replaced;
  return {std::string(form.name) + (twice ? ", logits twice" : ""),
          form.state,
          form.fused ? "fused" : "unfused",
          {&form, kAttentions[0], twice ? HeadForm::logits_twice : HeadForm::logits_once}};
}

/// Replaced kernels, built ones and accumulated proposals; then the built ones with every other attention, and the last
/// proposal with the fastest.
std::vector<StepForm> step_forms(const Config& config) {
  std::vector<StepForm> out, others;
  if (config.model.has_experts()) {
    for (const auto& forms : {unfused_experts(), fused_experts()})
      for (const auto& form : forms) out.push_back(with_experts(form));
  } else {
    const auto dense = [](HeadForm head) { return KernelForms{.attention = kAttentions[0], .head = head}; };
    out.push_back({"dense, logits twice", FormState::replaced, "dense", dense(HeadForm::logits_twice)});
    out.push_back({"dense", FormState::built, "dense", dense(HeadForm::logits_once)});
  }
  const auto add = [&](StepForm form, const std::string& name, AttentionForm attention) {
    form.name = fmt::format("{}, {}", name, name_of(attention));
    form.forms.attention = attention;
    others.push_back(std::move(form));
  };
  for (const auto& form : out)
    if (form.state == FormState::built)
      for (size_t i = 1; i < kAttentions.size(); ++i) add(form, std::string(form.feed_forward), kAttentions[i]);
  if (out.back().state == FormState::not_built) add(out.back(), "all of it", kAttentions.back());
  out.insert(out.end(), others.begin(), others.end());
  return out;
}

Json step_of(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu, const StepForm& form) {
  const auto step = predict_step(config, model, gpu, form.forms);
  const auto range = predict_range(config, model, gpu, form.forms);
  Json parts;
  for (const auto& part : step.parts) parts[std::string(part.name)] = part.seconds;
  return {{"form", form.name},
          {"state", name_of(form.state)},
          {"feed_forward", form.feed_forward},
          {"attention", name_of(*form.forms.attention)},
          {"step_s", step.step_s},
          {"fast_s", range.fast_s},
          {"slow_s", range.slow_s},
          {"tokens_per_s_per_gpu", step.token_per_s},
          {"mfu_causal", step.mfu_causal},
          {"mfu_full_attention", step.mfu_full},
          {"compute_s", step.compute_s},
          {"exposed_s", step.exposed_s},
          {"parts_s", parts}};
}

}  // namespace

std::string kernels_json(const Config& config, MeshShape mesh, const GpuSpecs& gpu) {
  if (!rates_of(gpu, Outlook::expected).has_tiles)
    throw ConfigError(
        fmt::format("--kernels: single kernels are modelled for compute capability 9.0, not {}", gpu.name));
  const auto& model = config.model;
  if (!model.layer_widths.empty())
    throw ConfigError("--kernels: one layer stands for all, but model.layer_widths makes them differ");
  Json out{{"predicted", "no GPU has confirmed any of these figures"},
           {"gpu", gpu.name},
           {"peak_tflop_per_s", gpu.bf16_flop_per_s / 1e12},
           {"gpus", mesh.replicate * mesh.shard},
           {"model_layers", model.num_layers},
           {"tokens", config.train.micro_batch_size * config.data.sequence_length},
           {"large_product", large_product_json(gpu)},
           {"layers", Json::array()},
           {"attention", Json::array()},
           {"steps", Json::array()}};
  if (model.has_experts()) {
    out["layers"].push_back(layer_of(config, built_experts(kernels::ExpertKernels::unfused), gpu));
    for (const auto& form : fused_experts()) out["layers"].push_back(layer_of(config, form, gpu));
    out["layers"].push_back(layer_of(config, sonic_moe_experts(), gpu));
  }
  for (const auto form : kAttentions) out["attention"].push_back(attention_of(config, form, gpu));
  const ModelOnMesh on_mesh(config, mesh);
  for (const auto& form : step_forms(config)) out["steps"].push_back(step_of(config, on_mesh, gpu, form));
  return out.dump(1) + "\n";
}

}  // namespace olmoe
