#include "trainer/report.h"

#include "data/token_files.h"
#include "model/flops.h"
#include "trainer/environment.h"
#include "trainer/memory_plan.h"

namespace olmoe {
namespace {

/// 6919161856 -> "6,919,161,856".
std::string grouped(int64_t n) {
  auto digits = std::to_string(n);
  for (auto at = std::ssize(digits) - 3; at > 0; at -= 3) digits.insert(digits.begin() + at, ',');
  return digits;
}

/// Opens what is there, lists what is not.
std::string describe_files(const std::string& what, const std::vector<std::string>& paths, const Config& config) {
  const auto missing = missing_files(paths);
  constexpr size_t kShown = 5;
  std::string out;
  if (missing.empty()) {
    const TokenDataset dataset(paths, config.data.dtype, config.data.sequence_length,
                               config.data.check_ids ? config.model.vocab_size : 0);
    out = fmt::format("{}: {} files, {} tokens, {} sequences\n", what, paths.size(), grouped(dataset.num_tokens()),
                      grouped(dataset.num_instances()));
  } else {
    out = fmt::format("{}: {} of {} files are missing on this machine\n", what, missing.size(), paths.size());
    for (size_t i = 0; i < std::min(kShown, missing.size()); ++i) out += fmt::format("  missing {}\n", missing[i]);
    if (missing.size() > kShown) out += fmt::format("  and {} more\n", missing.size() - kShown);
  }
  return out;
}

}  // namespace

std::string describe_run(const Config& config, MeshShape mesh) {
  const auto counts = count_parameters(config.model);
  const auto flops = count_flops(config.model, config.data.sequence_length);
  const int64_t step_tokens = config.train.global_batch_size * config.data.sequence_length;
  std::string out;
  out += fmt::format("mesh: world {} = replicate {} x shard {} (expert {} x expert_shard {}), ZeRO-{}\n",
                     mesh.replicate * mesh.shard, mesh.replicate, mesh.shard, mesh.expert, mesh.expert_shard(),
                     config.parallel.zero_stage);
  out += fmt::format("parameters: {} total, {} active\n", grouped(counts.total), grouped(counts.active));
  out += fmt::format("FLOPs per token: {:.3f} G with causal attention, {:.3f} G with full attention\n",
                     flops.causal / 1e9, flops.full_attention / 1e9);
  out += fmt::format("memory of a rank: {}\n", describe(plan_memory(config, mesh)));
  out += fmt::format("steps: {} of {} sequences x {} tokens = {} tokens a step, {} in all\n", config.train.steps,
                     config.train.global_batch_size, config.data.sequence_length, grouped(step_tokens),
                     grouped(step_tokens * config.train.steps));
  return out;
}

std::string describe_start(const Config& config, int world_size, const std::string& mpi_version) {
  auto env = describe_environment();
  const char* device = config.train.device == DeviceKind::cpu ? "cpu" : "cuda";
  return fmt::format("olmoe-train {} ({})\n{}device: {} ({}), {} threads a rank\nLibTorch {}, MPI {}", env["version"],
                     env["git_commit"], describe_run(config, mesh_shape(config.parallel, world_size)), device,
                     env["cpu_features"], env["threads"], env["libtorch"], mpi_version);
}

std::string dry_run(const Config& config, int world_size) {
  const auto mesh = mesh_shape(config.parallel, world_size);
  auto out = describe_run(config, mesh);
  if (config.data.synthetic)
    out += "training tokens: synthetic\n";
  else
    out += describe_files("training tokens", config.data.paths, config);
  if (!config.evaluation.paths.empty()) out += describe_files("evaluation tokens", config.evaluation.paths, config);
  return out;
}

}  // namespace olmoe
