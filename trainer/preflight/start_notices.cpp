#include "trainer/preflight/start_notices.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/text.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/manifest_config.h"
#include "trainer/config/parameter_groups.h"
#include "trainer/job/environment.h"
#include "trainer/preflight/schedule_notices.h"
#include "trainer/rewind.h"

namespace olmoe {
namespace {

using Lines = std::vector<std::string>;

/// Ranks without micro-batches in a step of so many sequences, or in its last accumulation step.
Lines idle_notices(const TrainConfig& train, int ranks, const std::string& key, int64_t sequences) {
  const BatchPlan batches{sequences, train.micro_batch_size, ranks};
  const int64_t steps = batches.accumulation_steps(), idle = steps * ranks - batches.micro_batches();
  if (idle == 0) return {};
  const auto when = steps == 1 ? "" : fmt::format(" in the last of {} accumulation steps", steps);
  return {
      fmt::format("{}: {} in micro-batches of {} (train.micro_batch_size) are work for {} of "
                  "{} ranks{}: {} idle",
                  key, counted(sequences, "sequence"), train.micro_batch_size, ranks - idle, ranks, when, idle)};
}

/// The same for the steps of a run, those of its warm-up first.
Lines idle_notices(const TrainConfig& train, int ranks) {
  Lines out;
  const auto append = [&](const std::string& key, int64_t sequences) {
    for (auto& line : idle_notices(train, ranks, key, sequences)) out.push_back(std::move(line));
  };
  for (size_t i = 0; i < train.batch_size_warmup.size(); ++i)
    append(fmt::format("train.batch_size_warmup[{}].global_batch_size", i),
           train.batch_size_warmup[i].global_batch_size);
  append("train.global_batch_size", train.global_batch_size);
  return out;
}

Lines thread_notices(const StartState& state) {
  const auto threads = int64_t{state.threads} * state.ranks_here;
  const double cpus = std::max(1.0, state.cpus.cpus);
  if (state.cpus.cpus <= 0 || static_cast<double>(threads) <= cpus) return {};
  return {fmt::format("run.threads: {} with {} each share {:.3g} CPUs ({}) and will wait for each other",
                      counted(state.ranks_here, "rank"), counted(state.threads, "thread"), state.cpus.cpus,
                      state.cpus.source)};
}

Lines repeatability_notices(const TrainConfig& train) {
  if (train.deterministic_attention) return {};
  return {
      "train.deterministic_attention: false, so two runs of one config may differ: attention sums its gradients "
      "in any order, and their last bits are not the same each time"};
}

Lines routing_notices(const ModelConfig& model) {
  if (!model.has_experts() || !model.experts_choose()) return {};
  return {fmt::format(
      "model.routing: expert_choice looks ahead: which experts a token has depends on later tokens of its {}. "
      "Losses, those of held-out sets too, are not of a causal model, and such a model cannot generate "
      "text token by token",
      model.expert_choice_scope == ChoiceScope::sequence ? "sequence" : "micro-batch")};
}

void append(Lines& lines, Lines more) {
  for (auto& line : more) lines.push_back(std::move(line));
}

}  // namespace

SavedRun find_saved_run(const Config& config, UnknownKeys unknown) {
  const auto folder = config.run.folder + "/checkpoints";
  SavedRun saved;
  std::vector<int64_t> steps;
  try {
    steps = complete_steps(folder);
  } catch (const std::filesystem::filesystem_error& error) {
    throw CheckpointError(fmt::format("cannot look for checkpoints in {}: {}", folder, error.code().message()));
  }
  if (steps.empty()) return saved;
  const auto path_of = [&](int64_t step) { return folder + "/" + step_name(step); };
  auto manifest = Manifest::read(path_of(steps.back()));
  const auto asked = resume_step(config.checkpoint);
  if (asked && std::ranges::binary_search(steps, *asked) &&
      !has_gone_back(manifest, path_of(steps.back()), config, unknown)) {
    steps.erase(std::ranges::upper_bound(steps, *asked), steps.end());
    manifest = Manifest::read(path_of(*asked));
  }
  auto [saved_config, left_out] = read_manifest_config(manifest, path_of(manifest.step), unknown);
  return {manifest.step, std::ssize(steps), std::move(saved_config), std::move(left_out)};
}

StartState read_start_state(const Config& config, SavedRun saved) {
  const int ranks_here = ranks_on_node();
  return {.saved = std::move(saved),
          .tokens = token_totals(config.data),
          .shared = find_shared_files(config),
          .disk = read_disk_room(config.run.folder),
          .threads = choose_threads(config.run.threads, ranks_here),
          .ranks_here = ranks_here,
          .cpus = tightest(cpu_bounds())};
}

StartNotices start_notices(const Config& config, int ranks, const StartState& state) {
  StartNotices out;
  if (state.saved.step >= config.train.steps) return out;
  const auto saves = plan_saves(config, state.saved.step, state.saved.checkpoints);
  if (state.tokens && state.tokens->used_tokens > 0) {  // the run itself refuses less than a sequence
    out.facts.push_back(describe_training_tokens(config, *state.tokens));
    append(out.notices, left_out_notices(config, *state.tokens));
  }
  if (config.data.instance_filter.is_on()) out.facts.push_back(describe_filter(config.data.instance_filter));
  if (saves.saves > 0) out.facts.push_back(describe_saves(saves, state.disk));
  append(out.facts, describe_groups(config.optimizer, config.model));
  append(out.notices, shared_file_notices(state.shared));
  append(out.notices, schedule_notices(config));
  if (state.saved.config) append(out.notices, changed_schedule_notices(*state.saved.config, config, state.saved.step));
  append(out.notices, disk_notices(config, saves, state.disk));
  append(out.notices, idle_notices(config.train, ranks));
  append(out.notices, thread_notices(state));
  append(out.notices, repeatability_notices(config.train));
  append(out.notices, routing_notices(config.model));
  return out;
}

}  // namespace olmoe
