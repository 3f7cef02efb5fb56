#include "trainer/roofline.h"

#include <algorithm>

#include "core/error.h"
#include "trainer/collective_bytes.h"
#include "trainer/memory_plan.h"
#include "trainer/step_variants.h"
#include "trainer/transfer_time.h"

namespace olmoe {
namespace {

// Shares of a GPU's peak that work of a kind is taken to reach. No GPU has confirmed them for this program yet.

/// cuBLAS on large bf16 products: 0.66 to 0.76 of an H100's peak are published. Ours, N x 2048 x 2048 to 50304, are
/// smaller, and power limits a GPU that computes for minutes.
constexpr double kDenseGemm = 0.60;
/// Puts forward and backward of an OLMoE layer, with the bytes that it moves, at 0.39 and 0.34 of an H100's peak for
/// 16,384 tokens: between what is published of grouped products with data movement by ATen (0.33, 0.34) and of those
/// with movement fused by hand (0.44, 0.36).
constexpr double kGroupedGemm = 0.50;
/// The fused products as they are compiled today, gathering, SwiGLU and fp32 gradients included: such that an OLMoE
/// layer has 1.12 times the unfused FLOP/s forward and 0.89 times backward, as a reading of their machine code for an
/// H100 puts them (0.70 to 1.04 backward: loads of weight gradients wait for each other, and so do exponentials).
constexpr double kFusedForward = 0.47, kFusedBackward = 0.31;
/// Flash attention, heads of 128, causal, of executed FLOPs: 0.35 to 0.40 forward is published for an H100, its
/// backward reaches less. Low for an A100.
constexpr double kAttention = 0.35;
/// Row kernels that read and write each byte once: a plain copy of large tensors reaches 0.90 to 0.93.
constexpr double kMemory = 0.80;
/// Time between kernels: some 60 launches for each block and direction. In a graph of the whole step one starts about a
/// microsecond after the other.
constexpr double kGaps = 0.03, kGapsOfGraph = 0.005;

enum class Direction { forward, backward };

double share_of_peak(Bound bound, Direction direction) {
  switch (bound) {
    case Bound::dense_gemm: return kDenseGemm;
    case Bound::grouped_gemm: return kGroupedGemm;
    case Bound::fused_gemm: return direction == Direction::forward ? kFusedForward : kFusedBackward;
    case Bound::attention: return kAttention;
    case Bound::memory: return 1;  // has no products
  }
  throw Error("unreachable bound");
}

/// The roofline: arithmetic or memory, whichever takes longer.
double seconds(const Cost& cost, Bound bound, const GpuSpecs& gpu, Direction direction) {
  return std::max(cost.flops / (gpu.bf16_flop_per_s * share_of_peak(bound, direction)),
                  cost.bytes / (gpu.memory_byte_per_s * kMemory));
}

struct PhaseSeconds {
  double forward = 0, backward = 0, update = 0;
  double forward_experts = 0, backward_experts = 0;  ///< of these, what a piece of a micro-batch can travel beside
};

bool is_of_experts(std::string_view part) { return part == "experts" || part == "SwiGLU" || part == "permute"; }

/// What `hidden_by` does not hide of a phase's collectives, but at least `edge`, beside which nothing computes.
double exposed(double transfer, double hidden_by, double edge) { return std::max(edge, transfer - hidden_by); }

/// Of tokens that travel in `chunks` pieces: the first piece's way there and the last one's way back have nothing
/// beside them, the others the experts of one piece less than all.
double exposed_exchange(double exchange, double experts, double chunks) {
  return exposed(exchange, experts * (chunks - 1) / chunks, exchange / chunks);
}

/// With overlap. Weights and gradients hide behind the passes in which they move, tokens behind experts, and all of
/// them share the links.
double exposed_seconds(const Config& config, const TransferTimes& times, const PhaseSeconds& compute,
                       const StepCounts& counts) {
  const auto passes = static_cast<double>(counts.passes), chunks = static_cast<double>(config.parallel.expert_chunks);
  const double gather_passes = static_cast<double>(counts.forward_gathers) / passes;
  const double reduce_passes = static_cast<double>(counts.reductions) / passes;
  const double gather = exposed(times.forward_gather, compute.forward * gather_passes, times.first_gather);
  const double reduce =
      exposed(times.backward_gather + times.reduce, compute.backward * reduce_passes, times.last_reduce);
  const double there = exposed_exchange(times.forward_exchange, compute.forward_experts, chunks);
  const double back = exposed_exchange(times.backward_exchange, compute.backward_experts, chunks);
  return exposed(times.forward_gather + times.forward_exchange, compute.forward, gather + there) +
         exposed(times.backward_gather + times.reduce + times.backward_exchange, compute.backward, reduce + back) +
         times.replicas;
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

}  // namespace

StepPrediction predict_step(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu) {
  if (config.train.compute_dtype != ComputeDtype::bfloat16)
    throw ConfigError("train.compute_dtype: step times on GPUs are predicted for bfloat16 only");
  if (config.parallel.transport != Transport::nccl)
    throw ConfigError("parallel.transport: step times on GPUs are predicted for nccl only");
  const auto work = count_step_work(config, model);
  StepPrediction out{};
  out.tokens = work.tokens;
  PhaseSeconds phases;
  for (const auto& part : work.parts) {
    const double forward = seconds(part.forward, part.bound, gpu, Direction::forward);
    const double backward = seconds(part.backward, part.bound, gpu, Direction::backward);
    const double update = seconds(part.update, part.bound, gpu, Direction::backward);
    out.parts.push_back({part.name, forward + backward + update});
    phases.forward += forward;
    phases.backward += backward;
    phases.update += update;
    if (is_of_experts(part.name)) phases.forward_experts += forward, phases.backward_experts += backward;
  }
  const double gaps = config.train.cuda_graph ? kGapsOfGraph : kGaps;
  out.compute_s = (phases.forward + phases.backward + phases.update) * (1 + gaps);
  const auto times = predict_transfers(config, model, work.tokens, gpu);
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
  out += fmt::format("predicted step: {:.1f} ms, {:.0f} tokens/s per GPU; without overlap {:.1f} ms\n",
                     prediction.step_s * 1e3, prediction.token_per_s, prediction.serial_step_s * 1e3);
  out += fmt::format("predicted MFU: {:.1f} % with causal attention, {:.1f} % with full attention\n",
                     100 * prediction.mfu_causal, 100 * prediction.mfu_full);
  out += describe_variants(predict_variants(config, model, specs), config.model.ffn);
  return out + fmt::format("planned memory: {:.1f} of {:.0f} GB{}\n", plan_bytes / 1e9, specs.memory_bytes / 1e9,
                           fits(plan_bytes, specs) ? "" : ": does not fit");
}

}  // namespace olmoe
