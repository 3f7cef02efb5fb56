#include "trainer/planner/plan_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/flops.h"
#include "trainer/planner/checkpoint_plan.h"
#include "trainer/planner/kernel_forms.h"

namespace olmoe {
namespace {

double gb(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

template <class E>
std::string_view name_of(E value) {
  return EnumNames<E>::names[static_cast<size_t>(value)];
}

/// Of the whole run.
struct RunPrediction {
  double tokens, days, gpu_hours;
};

RunPrediction predict_run(const Config& config, int gpus, const StepPrediction& step) {
  const auto sequences = static_cast<double>(config.train.batch_sizes().until(config.train.steps));
  // The steps of a batch-size warm-up take their share of the time of a whole one.
  const double steps = sequences / static_cast<double>(config.train.global_batch_size);
  const double hours = steps * step.step_s / 3600;
  return {sequences * static_cast<double>(config.data.sequence_length), hours / 24, hours * gpus};
}

std::string describe_model(const Config& config, int gpus, const GpuSpecs& gpu) {
  const auto counts = count_parameters(config.model);
  const auto flops = count_flops(config.model, config.data.sequence_length);
  const int64_t busy = busy_ranks(config, gpus);
  std::string out = fmt::format(
      "parameters: {:.4g} G, {:.4g} G active\n"
      "FLOPs per token: {:.4g} G with causal attention, {:.4g} G with full attention\n"
      "step: {} sequences of {} tokens in micro-batches of {}; gradients are reduced in {}, tokens are dispatched in "
      "{} chunks\n",
      gb(counts.total), gb(counts.active), flops.causal / 1e9, flops.full_attention / 1e9,
      config.train.global_batch_size, config.data.sequence_length, config.train.micro_batch_size,
      name_of(config.parallel.reduce_dtype), config.parallel.expert_chunks);
  if (config.data.document_mask != DocumentMask::none)
    out += "attention is counted over whole sequences: within documents (data.document_mask) it computes less\n";
  if (config.data.document_mask == DocumentMask::table)
    out += "document tables take 8 bytes a document in the host memory of each rank, which a dry run counts\n";
  out += fmt::format("{} {} in nodes of {}: predicted, no GPU has confirmed it; docs/parallelism.md says how\n", gpus,
                     gpu.name, kGpusPerNode);
  out += fmt::format(
      "step ms: as the config says, {} experts, {} attention, {} CUDA graph; fused: train.expert_kernels=fused, graph: "
      "train.cuda_graph=true and unfused; -: refused\n",
      name_of(config.train.expert_kernels),
      name_of(built_attention(config.train.attention_kernel, config.train.deterministic_attention)),
      config.train.cuda_graph ? "in a" : "no");
  if (busy < gpus)
    out += fmt::format(
        "only {} of {} GPUs have tokens: make train.micro_batch_size smaller or "
        "train.global_batch_size larger\n",
        busy, gpus);
  return out;
}

/// The step with these kernels and such a graph, in ms; "-" where a run would be refused.
std::string step_with(const PlannedLayout& p, kernels::ExpertKernels experts, bool graph) {
  for (const auto& variant : p.variants)
    if (variant.expert_kernels == experts && variant.cuda_graph == graph && variant.step)
      return fmt::format("{:.1f}", variant.step->step_s * 1e3);
  return "-";
}

std::string describe_row(const PlannedLayout& p, int gpus) {
  using kernels::ExpertKernels;
  const auto& [mesh, zero_stage, recompute] = p.layout;
  const auto& bytes = p.bytes;
  return fmt::format(
      "{:>9} {:>6} {:>6} {:>4}  {:<9} {:>8.1f} {:>4} {:>9.1f} {:>9} {:>9} {:>9} {:>9.1f} {:>9.0f} {:>8.3f} {:>6.1f} "
      "{:>5.1f} {:>8.2f} {:>8.2f} {:>8.2f} {:>8.2f}\n",
      mesh.replicate, mesh.shard, mesh.expert, zero_stage, name_of(recompute), gb(p.memory.total()),
      p.fits ? "yes" : "no", p.step.step_s * 1e3, step_with(p, ExpertKernels::fused, false),
      step_with(p, ExpertKernels::unfused, true), step_with(p, ExpertKernels::fused, true), p.step.exposed_s * 1e3,
      p.step.token_per_s, p.step.token_per_s * gpus / 1e6, 100 * p.step.mfu_causal, 100 * p.step.mfu_full,
      gb(bytes.gather_dense + bytes.gather_experts), gb(bytes.reduce_dense + bytes.reduce_experts), gb(bytes.replicas),
      gb(bytes.exchange));
}

std::string describe_header() {
  return fmt::format("{:>117} {:>11}{:>14}\n", "tokens/s", "MFU %", "GB that a rank sends in a step") +
         "replicate  shard expert ZeRO  recompute       GB fits   step ms     fused     graph      both   exposed"
         "   per GPU   all, M causal  full   gather   reduce replicas exchange\n";
}

std::string describe_best(const Config& config, int gpus, const GpuSpecs& gpu, const PlannedLayout& best) {
  const double usable = kUsableMemory * gpu.memory_bytes;
  if (!best.fits)
    return fmt::format("no layout fits: tensors may take {:.1f} of {:.0f} GB\n", usable / 1e9, gpu.memory_bytes / 1e9);
  const auto& [mesh, zero_stage, recompute] = best.layout;
  auto out = fmt::format(
      "best: parallel.replicate={} parallel.shard={} parallel.expert={} parallel.zero_stage={} train.recompute={}\n",
      mesh.replicate, mesh.shard, mesh.expert, zero_stage, name_of(recompute));
  out += fmt::format("memory of a rank, of {:.1f} GB that tensors may take:", usable / 1e9);
  for (const auto& kind : best.memory.kinds()) out += fmt::format(" {} {:.2f},", kind.name, gb(kind.size_bytes));
  out.back() = '\n';
  out += "time of a step, ms:";
  auto parts = best.step.parts;
  std::stable_sort(parts.begin(), parts.end(), [](auto& a, auto& b) { return a.seconds > b.seconds; });
  double gaps_s = best.step.compute_s;
  for (const auto& part : parts) {
    out += fmt::format(" {} {:.1f},", part.name, part.seconds * 1e3);
    gaps_s -= part.seconds;
  }
  out += fmt::format(" gaps between kernels {:.1f}, collectives not hidden {:.1f}\n", gaps_s * 1e3,
                     best.step.exposed_s * 1e3);
  if (config.optimizer.kind == OptimizerKind::muon)
    out +=
        fmt::format("Muon: a rank sends {:.3f} GB to homes of matrices and back in a step\n", gb(best.bytes.matrices));
  const auto run = predict_run(config, gpus, best.step);
  return out + fmt::format("the run of {} steps, {:.4g} T tokens: {:.1f} days, {:.0f} GPU-hours, predicted\n",
                           config.train.steps, run.tokens / 1e12, run.days, run.gpu_hours);
}

nlohmann::ordered_json json_of(const PlannedLayout& p, int gpus) {
  const auto& [mesh, zero_stage, recompute] = p.layout;
  nlohmann::ordered_json memory, variants = nlohmann::ordered_json::array();
  for (const auto& variant : p.variants) {
    nlohmann::ordered_json one{{"expert_kernels", name_of(variant.expert_kernels)}, {"cuda_graph", variant.cuda_graph}};
    if (variant.step)
      one["step_s"] = variant.step->step_s, one["tokens_per_s_per_gpu"] = variant.step->token_per_s;
    else
      one["refused"] = variant.refused;
    variants.push_back(one);
  }
  for (const auto& kind : p.memory.kinds()) memory[std::string(kind.name)] = kind.size_bytes;
  memory["total"] = p.memory.total();
  return {{"replicate", mesh.replicate},
          {"shard", mesh.shard},
          {"expert", mesh.expert},
          {"zero_stage", zero_stage},
          {"recompute", name_of(recompute)},
          {"fits", p.fits},
          {"memory_bytes", memory},
          {"sent_bytes",
           {{"gather_dense", p.bytes.gather_dense},
            {"gather_experts", p.bytes.gather_experts},
            {"reduce_dense", p.bytes.reduce_dense},
            {"reduce_experts", p.bytes.reduce_experts},
            {"replicas", p.bytes.replicas},
            {"exchange", p.bytes.exchange},
            {"matrices", p.bytes.matrices},
            {"total", p.bytes.total()}}},
          {"step_s", p.step.step_s},
          {"variants", variants},
          {"compute_s", p.step.compute_s},
          {"transfer_s", p.step.transfer_s},
          {"exposed_s", p.step.exposed_s},
          {"tokens_per_s_per_gpu", p.step.token_per_s},
          {"tokens_per_s", p.step.token_per_s * gpus},
          {"mfu_causal", p.step.mfu_causal},
          {"mfu_full_attention", p.step.mfu_full}};
}

}  // namespace

std::string describe_plan(const Config& config, int gpus, const GpuSpecs& gpu, std::span<const PlannedLayout> layouts,
                          size_t rows) {
  auto out = describe_model(config, gpus, gpu);
  out += describe_header();
  for (const auto& planned : layouts.first(std::min(rows, layouts.size()))) out += describe_row(planned, gpus);
  const auto fitting = std::count_if(layouts.begin(), layouts.end(), [](auto& p) { return p.fits; });
  out += fmt::format("{} layouts, {} fit; {} shown\n", layouts.size(), fitting, std::min(rows, layouts.size()));
  return out + describe_best(config, gpus, gpu, layouts.front());
}

std::string plan_json(const Config& config, int gpus, const GpuSpecs& gpu, std::span<const PlannedLayout> layouts) {
  const auto counts = count_parameters(config.model);
  const auto flops = count_flops(config.model, config.data.sequence_length);
  const auto saves = plan_saves(config, /*step=*/0, /*present=*/0);
  nlohmann::ordered_json out{{"gpu", gpu.name},
                             {"gpus", gpus},
                             {"gpus_with_tokens", busy_ranks(config, gpus)},
                             {"memory_limit_bytes", kUsableMemory * gpu.memory_bytes},
                             {"parameters", {{"total", counts.total}, {"active", counts.active}}},
                             {"flops_per_token", {{"causal", flops.causal}, {"full_attention", flops.full_attention}}},
                             {"steps", config.train.steps},
                             {"checkpoints",
                              {{"each_bytes", saves.each_bytes},
                               {"most", saves.most},
                               {"weights", saves.weights},
                               {"bytes", saves.all_bytes()}}},
                             {"step_tokens", config.train.global_batch_size * config.data.sequence_length},
                             {"layouts", nlohmann::ordered_json::array()}};
  for (const auto& planned : layouts) out["layouts"].push_back(json_of(planned, gpus));
  return out.dump(1) + "\n";
}

}  // namespace olmoe
