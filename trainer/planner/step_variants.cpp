#include "trainer/planner/step_variants.h"

namespace olmoe {
namespace {

using kernels::ExpertKernels;

/// Why this GPU cannot run the config that way, as check_gpu() refuses it on the GPU itself; empty where it can.
std::string refused_by(const GpuSpecs& gpu, const Config& config) {
  if (config.train.attention_kernel == kernels::AttentionKernel::cudnn && gpu.compute_capability != 90)
    return fmt::format("train.attention_kernel: cuDNN's attention is used on compute capability 9.0 alone, not {}",
                       gpu.name);
  if (!config.model.has_experts()) return {};
  if (config.train.expert_kernels == ExpertKernels::fused && gpu.compute_capability != 90)
    return fmt::format("train.expert_kernels: the fused kernels are for compute capability 9.0, not {}", gpu.name);
  if (config.train.cuda_graph && gpu.compute_capability != 90 && gpu.compute_capability != 100)
    return fmt::format("train.cuda_graph: on {} LibTorch's grouped GEMM needs a host sync", gpu.name);
  return {};
}

StepVariant predict_variant(Config config, const ModelOnMesh& model, const GpuSpecs& gpu, ExpertKernels experts,
                            bool graph) {
  config.train.device = DeviceKind::cuda;
  config.train.expert_kernels = experts;
  config.train.cuda_graph = graph;
  StepVariant out{experts, graph, {}, refused_by(gpu, config)};
  if (const auto problems = validate(config); out.refused.empty() && !problems.empty()) out.refused = problems.front();
  if (out.refused.empty()) out.step = predict_step(config, model, gpu);
  return out;
}

std::string describe(const StepVariant& variant) {
  if (!variant.step) return fmt::format("refused ({})", variant.refused);
  return fmt::format("{:.1f} ms, {:.0f} tokens/s per GPU", variant.step->step_s * 1e3, variant.step->token_per_s);
}

}  // namespace

std::vector<StepVariant> predict_variants(const Config& config, const ModelOnMesh& model, const GpuSpecs& gpu) {
  std::vector<StepVariant> out;
  for (const auto experts : {ExpertKernels::unfused, ExpertKernels::fused})
    for (const bool graph : {false, true})
      if (config.model.has_experts() || experts == ExpertKernels::unfused)
        out.push_back(predict_variant(config, model, gpu, experts, graph));
  return out;
}

std::string describe_variants(const std::vector<StepVariant>& variants, bool has_experts) {
  std::string out;
  for (size_t i = 0; i + 1 < variants.size(); i += 2) {
    const bool fused = variants[i].expert_kernels == ExpertKernels::fused;
    const char* const kind = !has_experts ? "dense feed-forward" : fused ? "fused experts" : "unfused experts";
    out += fmt::format("predicted with {}: {}; with a CUDA graph {}\n", kind, describe(variants[i]),
                       describe(variants[i + 1]));
  }
  return out;
}

}  // namespace olmoe
