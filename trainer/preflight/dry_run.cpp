#include "trainer/preflight/dry_run.h"

#include <algorithm>
#include <filesystem>

#include "core/text.h"
#include "data/documents.h"
#include "data/token_files.h"
#include "model/flops.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/device/device_facts.h"
#include "trainer/evaluator.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/planner/roofline.h"
#include "trainer/preflight/memory_fit.h"
#include "trainer/preflight/start_notices.h"
#include "trainer/weights.h"

namespace olmoe {
namespace {

/// Token files that do not exist. Opening one that is not a regular file reports what is wrong.
std::vector<std::string> absent_files(const std::vector<std::string>& paths) {
  auto absent = missing_files(paths);
  std::error_code unknown;  // what has no status cannot be opened either
  std::erase_if(absent, [&](const std::string& path) { return std::filesystem::exists(path, unknown) || unknown; });
  return absent;
}

/// `paths` without `absent`, which are some of them in the same order.
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
  return out + fmt::format("  {}\n", kHowTokensAreMade);
}

std::string describe_tokens(const std::string& what, size_t num_files, int64_t tokens, int64_t sequences) {
  return fmt::format("{}: {} files, {} tokens, {} sequences\n", what, num_files, grouped(tokens), grouped(sequences));
}

/// What is said of the training files, and what their document tables take on each rank.
struct TrainingFiles {
  std::string text;
  int64_t table_bytes = 0;
};

/// Throws DataError for document tables that a run would refuse.
TrainingFiles read_tables(const DataConfig& data, const TokenDataset& dataset) {
  if (data.document_mask != DocumentMask::table) return {};
  const DocumentTables tables(dataset);
  return {describe(tables) + "\n", tables.size_bytes()};
}

/// Checks the files that exist as a run would, and lists those that do not.
TrainingFiles check_training(const Config& config) {
  const auto& data = config.data;
  if (data.synthetic) return {"training tokens: synthetic\n"};
  const auto paths = data.all_paths(), absent = absent_files(paths), present = present_files(paths, absent);
  if (absent.empty()) {
    const TokenDataset dataset(present, data.dtype, data.sequence_length, config.model.vocab_size);
    if (data.check_ids) dataset.read_all();
    return read_tables(data, dataset);  // the notices have their tokens
  }
  // Sequences of one token: whole ones may be in files that are missing here.
  TrainingFiles out;
  if (!present.empty()) {
    const TokenDataset dataset(present, data.dtype, /*sequence_length=*/1, config.model.vocab_size);
    if (data.check_ids) dataset.read_all();
    out = read_tables(data, dataset);
  }
  out.text += describe_absent("training tokens", absent, paths.size());
  return out;
}

/// As check_training, of all evaluation tasks.
std::string describe_evaluation(const Config& config) {
  std::vector<std::string> all_absent;
  size_t num_files = 0;
  EvalSize total;
  for_each_task(config, [&](const PlannedTask& task) {
    const auto absent = absent_files(task.files), present = present_files(task.files, absent);
    num_files += task.files.size();
    all_absent.insert(all_absent.end(), absent.begin(), absent.end());
    if (present.empty()) return;
    const auto size = task.make(present, /*reads_all=*/true)->size();
    total.tokens += size.tokens;
    total.sequences += size.sequences;
  });
  if (num_files == 0) return {};
  return all_absent.empty() ? describe_tokens("evaluation tokens", num_files, total.tokens, total.sequences)
                            : describe_absent("evaluation tokens", all_absent, num_files);
}

/// What a dry run checks, and what it does not.
std::string describe_checks(const Config& config) {
  std::string checked = "the config, the layout over ranks, memory, disk";
  if (!config.train.init_from.empty()) checked += ", names and shapes of the initial weights";
  if (!config.data.all_paths().empty())
    checked += config.data.check_ids ? ", sizes and ids of the training files that are here"
                                     : ", sizes of the training files that are here (data.check_ids is off)";
  if (!planned_tasks(config).empty()) checked += ", sizes and ids of the evaluation files that are here";
  return fmt::format(
      "checked: {}\nnot checked: run.folder and the files of its checkpoints, this machine's CPU and GPUs, how ranks "
      "start and meet\n",
      checked);
}

/// The plan compared with the memory that there is; on a CPU with the document tables.
DryRun describe_fit(const Config& config, MeshShape mesh, const std::string& gpu, int multiprocessors,
                    int64_t table_bytes) {
  const bool on_cpu = config.train.device == DeviceKind::cpu;
  const int64_t rank_bytes = plan_memory(config, mesh, multiprocessors).total() + (on_cpu ? table_bytes : 0);
  const int ranks = mesh.replicate * mesh.shard, here = std::min(ranks, ranks_on_node());
  const auto bounds = planned_bounds(config, gpu);
  const auto fit = fit_memory(rank_bytes, here, bounds), together = fit_memory(rank_bytes, ranks, bounds);
  DryRun out{{}, fit.verdict < MemoryFit::Verdict::beyond_total};
  out.text = fmt::format("{}memory: {}\n", fit.verdict == MemoryFit::Verdict::fits ? "" : "notice: ", describe(fit));
  if (together.verdict > fit.verdict)
    out.text += fmt::format("notice: memory, were all ranks on this machine: {}\n", describe(together));
  return out;
}

/// The notices of a run's start, and whether a checkpoint fits on the disk at all.
DryRun describe_notices(const Config& config, int world_size, UnknownKeys unknown) {
  const auto state = read_start_state(config, find_saved_run(config, unknown));
  std::string out;
  if (state.saved.config)
    out += fmt::format("run.folder: {} has step {}, from which a run resumes\n", config.run.folder, state.saved.step);
  if (!state.saved.left_out.empty()) out += fmt::format("notice: {}\n", state.saved.left_out);
  const auto [always, notices] = start_notices(config, world_size, state);
  for (const auto& fact : always) out += fact + "\n";
  for (const auto& notice : notices) out += fmt::format("notice: {}\n", notice);
  try {
    check_disk(config, plan_saves(config, state.saved.step, state.saved.checkpoints), state.disk);
  } catch (const ConfigError& error) {
    return {out + fmt::format("notice: {}\n", error.what()), false};
  }
  return {out, true};
}

}  // namespace

std::string describe_run(const Config& config, MeshShape mesh, int multiprocessors) {
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
  out += fmt::format("memory of a rank: {}\n", describe(plan_memory(config, mesh, multiprocessors)));
  out += fmt::format("steps: {} of {} sequences x {} tokens = {} tokens a step, {} in all\n", config.train.steps,
                     config.train.global_batch_size, config.data.sequence_length, grouped(step_tokens),
                     grouped(config.train.batch_sizes().until(config.train.steps) * config.data.sequence_length));
  for (const auto& phase : config.train.batch_size_warmup)
    out += fmt::format("batch-size warm-up: {} up to step {}\n", counted(phase.global_batch_size, "sequence"),
                       phase.until_step);
  return out;
}

std::string describe_start(const ResolvedRun& run, const std::string& mpi_version) {
  auto env = describe_environment(run.device);
  const auto text = describe_run(run.config, run.mesh, multiprocessors_of(run.device));
  return fmt::format("olmoe-train {} ({})\n{}device: {} ({}), {} threads a rank\nLibTorch {}, MPI {}", env["version"],
                     env["git_commit"], text, run.device.str(), env[run.device.is_cpu() ? "cpu_features" : "gpu"],
                     env["threads"], env["libtorch"], mpi_version);
}

DryRun dry_run(const Config& config, int world_size, const std::string& gpu, UnknownKeys unknown) {
  const auto mesh = mesh_shape(config, world_size);
  const int multiprocessors = gpu.empty() ? kUsualMultiprocessors : find_gpu(gpu).multiprocessors;
  auto out = describe_run(config, mesh, multiprocessors) + describe_speed(config, mesh, gpu);
  if (const auto& folder = config.train.init_from; !folder.empty()) {
    initial_weights(config, unknown);
    out += fmt::format("initial weights: {}\n", folder);
  }
  const auto training = check_training(config);
  out += training.text + describe_evaluation(config);
  const auto memory = describe_fit(config, mesh, gpu, multiprocessors, training.table_bytes);
  const auto notices = describe_notices(config, world_size, unknown);
  return {out + memory.text + notices.text + describe_checks(config), memory.fits && notices.fits};
}

}  // namespace olmoe
