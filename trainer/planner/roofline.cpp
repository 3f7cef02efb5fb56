#include "trainer/planner/roofline.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "trainer/planner/collective_bytes.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/planner/step_variants.h"
#include "trainer/planner/transfer_time.h"

namespace olmoe {
namespace {

enum class Direction { forward, backward };

double attention_rate(AttentionForm form, Direction direction, const GpuRates& rates) {
  const bool forward = direction == Direction::forward;
  if (is_cudnn(form)) return forward ? rates.cudnn_forward : rates.cudnn_backward;
  return forward ? rates.flash_forward : rates.flash_backward;
}

/// The roofline: arithmetic or memory, whichever takes longer.
double roofline(const Cost& cost, double flop_per_s, const GpuRates& rates) {
  return std::max(cost.flops / flop_per_s, cost.bytes / rates.memory_byte_per_s);
}

/// With so few blocks, the last turn leaves multiprocessors without one, and copies of sums are on top.
double split_seconds(const Cost& cost, double flop_per_s, const GpuRates& rates) {
  const double processors = rates.multiprocessors, copies = std::ceil(processors / cost.split.heads);
  const double turns = copies * cost.split.heads / processors;
  return roofline(cost, flop_per_s * turns / std::ceil(turns), rates) +
         (copies - 1) * cost.split.copy_bytes / rates.memory_byte_per_s;
}

/// Grouped GEMMs tile by tile where there is a model of tiles.
double grouped_seconds(const Cost& cost, const ExpertForm& form, const GpuRates& rates) {
  if (!rates.has_tiles) return roofline(cost, rates.grouped_flop_per_s, rates);
  double sum = 0;
  for (const auto& gemm : cost.gemms)
    sum += gemm.launches * product_time({gemm, form.kernel_of(gemm.name)}, rates).seconds;
  return sum;
}

double seconds(const Cost& cost, Bound bound, const StepKernels& kernels, Direction direction, const GpuRates& rates) {
  switch (bound) {
    case Bound::dense_gemm:
      return roofline(cost, rates.dense_flop_per_s, rates);
    case Bound::grouped_gemm:
      return grouped_seconds(cost, *kernels.experts, rates);
    case Bound::attention: {
      const double rate = attention_rate(kernels.attention, direction, rates);
      return cost.split.heads > 0 ? split_seconds(cost, rate, rates) : roofline(cost, rate, rates);
    }
    case Bound::memory:
      return cost.bytes / rates.memory_byte_per_s;
  }
  throw Error("unreachable bound");
}

struct PhaseSeconds {
  double forward = 0, backward = 0, update = 0;
  double forward_experts = 0, backward_experts = 0;  ///< of these, what can overlap with the exchange of a chunk
};

bool is_of_experts(std::string_view part) { return part == "experts" || part == "SwiGLU" || part == "permute"; }

/// Exposed time of a phase's collectives: what `hidden_by` does not overlap, but at least `edge`, which nothing does.
double exposed(double transfer, double hidden_by, double edge) { return std::max(edge, transfer - hidden_by); }

/// Exposed time of dispatch and combine in `chunks` chunks: nothing overlaps the dispatch of the first chunk and the
/// combine of the last; the experts of all chunks but one overlap the rest.
double exposed_exchange(double exchange, double experts, double chunks) {
  return exposed(exchange, experts * (chunks - 1) / chunks, exchange / chunks);
}

/// Exposed time with overlap. Gathers and reductions overlap with the forwards and backwards in which they run,
/// dispatch and combine with the experts; all of them share the links.
double exposed_seconds(const Config& config, const TransferTimes& times, const PhaseSeconds& compute,
                       const StepCounts& counts) {
  const auto passes = static_cast<double>(counts.passes), chunks = static_cast<double>(config.parallel.expert_chunks);
  const double gather_passes = static_cast<double>(counts.forward_gathers + counts.count_gathers) /
                               static_cast<double>(counts.passes + counts.counted_passes);
  const double reduce_passes = static_cast<double>(counts.reductions) / passes;
  const double gather = exposed(times.forward_gather, compute.forward * gather_passes, times.first_gather);
  const double reduce =
      exposed(times.backward_gather + times.reduce, compute.backward * reduce_passes, times.last_reduce);
  const double there = exposed_exchange(times.forward_exchange, compute.forward_experts, chunks);
  const double back = exposed_exchange(times.backward_exchange, compute.backward_experts, chunks);
  return exposed(times.forward_gather + times.forward_exchange, compute.forward, gather + there) +
         exposed(times.backward_gather + times.reduce + times.backward_exchange, compute.backward, reduce + back) +
         times.replicas + times.matrices;
}

std::string describe_parts(const StepPrediction& prediction) {
  auto parts = prediction.parts;
  std::stable_sort(parts.begin(), parts.end(), [](auto& a, auto& b) { return a.seconds > b.seconds; });
  auto line = [&](std::string_view name, double part_s) {
    return fmt::format("  {:<26}{:>9.2f} ms {:>5.1f} %\n", name, part_s * 1e3, 100 * part_s / prediction.step_s);
  };
  std::string out;
  double computing_s = 0;
  for (const auto& part : parts) {
    out += line(part.name, part.seconds);
    computing_s += part.seconds;
  }
  return out + line("gaps between kernels", prediction.compute_s - computing_s) +
         line("collectives not hidden", prediction.exposed_s);
}

GpuSpecs with_links(GpuSpecs gpu, double factor) {
  gpu.nvlink_byte_per_s *= factor;
  gpu.network_byte_per_s *= factor;
  return gpu;
}

}  // namespace

PartSeconds part_seconds(const Work& part, const StepKernels& kernels, const GpuRates& rates) {
  const auto time = [&](const Cost& cost, Direction direction) {
    return seconds(cost, part.bound, kernels, direction, rates);
  };
  return {time(part.forward, Direction::forward), time(part.backward, Direction::backward),
          time(part.update, Direction::backward)};
}

StepPrediction predict_step(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu,
                            const KernelForms& forms, Outlook outlook) {
  if (config.train.compute_dtype != ComputeDtype::bfloat16)
    throw ConfigError("train.compute_dtype: step times on GPUs are predicted for bfloat16 only");
  if (config.parallel.transport != Transport::nccl)
    throw ConfigError("parallel.transport: step times on GPUs are predicted for nccl only");
  const auto work = count_step_work(config, model, forms);
  const auto rates = rates_of(gpu, outlook);
  StepPrediction out{};
  out.tokens = work.tokens;
  PhaseSeconds phases;
  for (const auto& part : work.parts) {
    const auto [forward, backward, update] = part_seconds(part, work.kernels, rates);
    out.parts.push_back({part.name, forward + backward + update});
    phases.forward += forward;
    phases.backward += backward;
    phases.update += update;
    if (is_of_experts(part.name)) phases.forward_experts += forward, phases.backward_experts += backward;
  }
  const double gaps = config.train.cuda_graph ? rates.gap_in_graph : rates.gap;
  out.compute_s = (phases.forward + phases.backward + phases.update) * (1 + gaps);
  const auto times = predict_transfers(config, model, work.tokens, with_links(gpu, rates.links));
  out.transfer_s = times.total();
  out.exposed_s =
      config.parallel.overlap ? exposed_seconds(config, times, phases, count_step(config, model.mesh)) : out.transfer_s;
  out.step_s = out.compute_s + out.exposed_s;
  out.serial_step_s = out.compute_s + out.transfer_s;
  const int ranks = model.mesh.replicate * model.mesh.shard;
  out.token_per_s = work.global_tokens / ranks / out.step_s;
  out.mfu_causal = model.flops.causal * out.token_per_s / gpu.bf16_flop_per_s;
  out.mfu_full = model.flops.full_attention * out.token_per_s / gpu.bf16_flop_per_s;
  return out;
}

StepRange predict_range(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu, const KernelForms& forms) {
  const auto at = [&](Outlook outlook) { return predict_step(config, model, gpu, forms, outlook).step_s; };
  return {at(Outlook::fast), at(Outlook::slow)};
}

StepPrediction predict_step(const Config& config, MeshShape mesh, const GpuSpecs& gpu) {
  return predict_step(config, ModelOnMesh(config, mesh), gpu);
}

std::string describe_speed(const Config& config, MeshShape mesh, const std::string& gpu) {
  if (gpu.empty()) {
    if (config.train.device == DeviceKind::cpu) return {};
    return fmt::format("predicted speed: no GPU was named; name one with --gpu, of {}\n", gpu_names());
  }
  const auto& specs = find_gpu(gpu);
  const ModelOnMesh model(config, mesh);
  const auto prediction = predict_step(config, model, specs);
  const double plan_bytes = static_cast<double>(plan_memory(config, model, specs.multiprocessors).total());
  std::string out = fmt::format(
      "predicted on {} ({:.1f} TFLOP/s dense bf16, {:.2f} TB/s, {:.0f} GB), not measured; docs/roofline.md says how:\n",
      specs.name, specs.bf16_flop_per_s / 1e12, specs.memory_byte_per_s / 1e12, specs.memory_bytes / 1e9);
  out += describe_parts(prediction);
  const auto range = predict_range(config, model, specs);
  out +=
      fmt::format("predicted step: {:.1f} ms ({:.0f} to {:.0f}), {:.0f} tokens/s per GPU; without overlap {:.1f} ms\n",
                  prediction.step_s * 1e3, range.fast_s * 1e3, range.slow_s * 1e3, prediction.token_per_s,
                  prediction.serial_step_s * 1e3);
  out += fmt::format("predicted MFU: {:.1f} % with causal attention, {:.1f} % with full attention\n",
                     100 * prediction.mfu_causal, 100 * prediction.mfu_full);
  out += describe_variants(predict_variants(config, model, specs), config.model.has_experts());
  return out + fmt::format("planned memory: {:.1f} of {:.0f} GB{}\n", plan_bytes / 1e9, specs.memory_bytes / 1e9,
                           fits(plan_bytes, specs) ? "" : ": does not fit");
}

}  // namespace olmoe
