#include "trainer/report.h"

#include <algorithm>
#include <filesystem>

#include "data/token_files.h"
#include "model/flops.h"
#include "trainer/devices.h"
#include "trainer/environment.h"
#include "trainer/layout.h"
#include "trainer/evaluator.h"
#include "trainer/memory_plan.h"
#include "trainer/roofline.h"
#include "trainer/weights.h"

namespace olmoe {
namespace {

/// 6919161856 -> "6,919,161,856".
std::string grouped(int64_t n) {
  auto digits = std::to_string(n);
  for (auto at = std::ssize(digits) - 3; at > 0; at -= 3) digits.insert(digits.begin() + at, ',');
  return digits;
}

/// Token files that are not there at all: for what is there as something else, opening it says what is wrong.
std::vector<std::string> absent_files(const std::vector<std::string>& paths) {
  auto absent = missing_files(paths);
  std::error_code unknown;  // what cannot be looked at cannot be opened either
  std::erase_if(absent, [&](const std::string& path) { return std::filesystem::exists(path, unknown) || unknown; });
  return absent;
}

/// `paths` without `absent`, some of them in the same order.
std::vector<std::string> present_files(const std::vector<std::string>& paths, const std::vector<std::string>& absent) {
  std::vector<std::string> present;
  auto next = absent.begin();
  for (const auto& path : paths)
    if (next != absent.end() && path == *next)
      ++next;
    else
      present.push_back(path);
  return present;
}

std::string describe_absent(const std::string& what, const std::vector<std::string>& absent, size_t num_files) {
  constexpr size_t kShown = 5;
  auto out = fmt::format("{}: {} of {} files are missing on this machine\n", what, absent.size(), num_files);
  for (size_t i = 0; i < std::min(kShown, absent.size()); ++i) out += fmt::format("  missing {}\n", absent[i]);
  if (absent.size() > kShown) out += fmt::format("  and {} more\n", absent.size() - kShown);
  return out;
}

std::string describe_tokens(const std::string& what, size_t num_files, int64_t tokens, int64_t sequences) {
  return fmt::format("{}: {} files, {} tokens, {} sequences\n", what, num_files, grouped(tokens), grouped(sequences));
}

/// Checks what is there as a run would, lists what is not.
std::string describe_training(const Config& config) {
  const auto& data = config.data;
  if (data.synthetic) return "training tokens: synthetic\n";
  const auto absent = absent_files(data.paths), present = present_files(data.paths, absent);
  const int64_t vocab_size = data.check_ids ? config.model.vocab_size : 0;
  if (absent.empty()) {
    const TokenDataset dataset(present, data.dtype, data.sequence_length, vocab_size);
    return describe_tokens("training tokens", present.size(), dataset.num_tokens(), dataset.num_instances());
  }
  // Sequences of one token: a whole one may lie in a file that is not here.
  if (!present.empty()) TokenDataset(present, data.dtype, /*sequence_length=*/1, vocab_size);
  return describe_absent("training tokens", absent, data.paths.size());
}

/// As describe_training; each file is a set of its own.
std::string describe_evaluation(const Config& config) {
  const auto& paths = config.evaluation.paths;
  if (paths.empty()) return {};
  const auto absent = absent_files(paths), present = present_files(paths, absent);
  int64_t tokens = 0, sequences = 0;
  for (const auto& path : present) {
    const TokenDataset set({path}, config.data.dtype, config.data.sequence_length, config.model.vocab_size);
    tokens += set.num_tokens();
    sequences += set.num_instances();
  }
  return absent.empty() ? describe_tokens("evaluation tokens", paths.size(), tokens, sequences)
                        : describe_absent("evaluation tokens", absent, paths.size());
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
  out += fmt::format("FLOPs per token: {:.4g} G with causal attention, {:.4g} G with full attention\n",
                     flops.causal / 1e9, flops.full_attention / 1e9);
  out += fmt::format("memory of a rank: {}\n", describe(plan_memory(config, mesh)));
  out += fmt::format("steps: {} of {} sequences x {} tokens = {} tokens a step, {} in all\n", config.train.steps,
                     config.train.global_batch_size, config.data.sequence_length, grouped(step_tokens),
                     grouped(step_tokens * config.train.steps));
  return out;
}

std::string describe_start(const Config& config, int world_size, const std::string& mpi_version) {
  const auto device = device_of_rank(config.train.device);
  auto env = describe_environment(device);
  return fmt::format("olmoe-train {} ({})\n{}device: {} ({}), {} threads a rank\nLibTorch {}, MPI {}", env["version"],
                     env["git_commit"], describe_run(config, mesh_shape(config, world_size)), device.str(),
                     env[device.is_cpu() ? "cpu_features" : "gpu"], env["threads"], env["libtorch"], mpi_version);
}

std::string dry_run(const Config& config, int world_size, const std::string& gpu) {
  const auto mesh = mesh_shape(config, world_size);
  evaluation_set_names(config.evaluation.paths);
  auto out = describe_run(config, mesh) + describe_speed(config, mesh, gpu);
  if (const auto& folder = config.train.init_from; !folder.empty()) {
    initial_weights(config);
    out += fmt::format("initial weights: {}\n", folder);
  }
  return out + describe_training(config) + describe_evaluation(config);
}

}  // namespace olmoe
