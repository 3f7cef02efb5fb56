#include "trainer/planner/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "core/error.h"

namespace olmoe {
namespace {

/// Without token files: the list may be long, and a plan does not need it. Where documents end does not matter to it
/// either, and tables of them are beside token files.
Config without_tokens(Config config) {
  if (config.data.document_mask == DocumentMask::table) {
    config.data.document_mask = DocumentMask::eos;
    config.data.eos_id = 0;
  }
  config.data.make_synthetic();
  config.evaluation = {};
  return config;
}

PlannedLayout plan_layout(const Config& config, const Layout& layout, const ModelOnMesh& model, const GpuSpecs& gpu) {
  const auto laid_out = with_layout(config, layout);
  const auto memory = plan_memory(laid_out, model, gpu.multiprocessors);
  const auto step = predict_step(laid_out, model, gpu);
  const auto copies = expected_copies_of_step(config.model, layout.mesh, static_cast<int64_t>(step.tokens));
  return {layout,
          memory,
          fits(static_cast<double>(memory.total()), gpu),
          count_collective_bytes(laid_out, model, copies),
          step,
          predict_variants(laid_out, model, gpu)};
}

/// Better layouts have smaller keys.
std::tuple<bool, double, int64_t> key_of(const PlannedLayout& planned) {
  return {!planned.fits, planned.fits ? planned.step.step_s : 0, planned.memory.total()};
}

std::vector<MeshShape> list_meshes(const Config& config, int gpus) {
  std::vector<MeshShape> out;
  const int64_t experts = config.model.has_experts() ? config.model.num_experts : 1;
  for (int shard = 1; shard <= gpus; ++shard)
    for (int expert = 1; expert <= std::min<int64_t>(shard, experts); ++expert)
      if (gpus % shard == 0 && shard % expert == 0 && experts % expert == 0)
        out.push_back({gpus / shard, shard, expert});
  return out;
}

bool same(MeshShape a, MeshShape b) { return a.replicate == b.replicate && a.shard == b.shard && a.expert == b.expert; }

}  // namespace

bool Layout::operator==(const Layout& other) const {
  return same(mesh, other.mesh) && zero_stage == other.zero_stage && recompute == other.recompute;
}

std::vector<Layout> list_layouts(const Config& config, int gpus) {
  if (gpus < 1 || gpus > kMostGpus)
    throw ConfigError(fmt::format("--gpus: {} must be between 1 and {}", gpus, kMostGpus));
  const auto bare = without_tokens(config);
  std::vector<Layout> out;
  std::vector<std::string> problems;
  for (const auto& mesh : list_meshes(config, gpus))
    for (int64_t zero_stage = 1; zero_stage <= 3; ++zero_stage)
      for (size_t mode = 0; mode < EnumNames<Recompute>::names.size(); ++mode) {
        const Layout layout{mesh, zero_stage, static_cast<Recompute>(mode)};
        const auto found = validate(with_layout(bare, layout));
        if (found.empty()) out.push_back(layout);
        if (problems.empty()) problems = found;
      }
  if (out.empty()) throw ConfigError(fmt::format("no layout of {} GPUs: {}", gpus, fmt::join(problems, "; ")));
  return out;
}

Config with_layout(Config config, const Layout& layout) {
  config.parallel.replicate = layout.mesh.replicate;
  config.parallel.shard = layout.mesh.shard;
  config.parallel.expert = layout.mesh.expert;
  config.parallel.zero_stage = layout.zero_stage;
  config.train.recompute = layout.recompute;
  return config;
}

std::vector<PlannedLayout> plan_layouts(const Config& config, int gpus, const GpuSpecs& gpu) {
  const auto bare = without_tokens(config);
  std::vector<PlannedLayout> out;
  std::optional<ModelOnMesh> model;  // one for all layouts of a mesh
  for (const auto& layout : list_layouts(bare, gpus)) {
    if (!model || !same(model->mesh, layout.mesh)) model.emplace(bare, layout.mesh);
    out.push_back(plan_layout(bare, layout, *model, gpu));
  }
  std::stable_sort(out.begin(), out.end(), [](auto& a, auto& b) { return key_of(a) < key_of(b); });
  return out;
}

int64_t busy_ranks(const Config& config, int gpus) {
  return std::min<int64_t>(gpus, config.train.batches(gpus).micro_batches());
}

}  // namespace olmoe
