#include "trainer/same_run.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "core/log.h"
#include "data/fingerprint.h"
#include "data/sequence_skip.h"
#include "trainer/checkpoint/manifest_config.h"
#include "trainer/config/fixed_keys.h"
#include "trainer/config/parameter_groups.h"

namespace olmoe {

std::string skip_problem(const Config& before, const Config& now, int64_t consumed) {
  const SequenceSkip theirs(before.data.skip, before.train.batch_sizes()), ours(now.data.skip, now.train.batch_sizes());
  const auto first = theirs.first_difference(ours);
  if (!first || *first >= consumed) return {};
  const int64_t step = now.train.batch_sizes().step_of(*first);
  return fmt::format(
      "data.skip: step {} took sequence {} of the stream, and would take {} now. What is trained on cannot be taken "
      "back: {}",
      step, theirs.position(*first), ours.position(*first),
      step == 1 ? "start a new run"
                : fmt::format("resume from step {} or an earlier one (checkpoint.resume)", step - 1));
}

namespace {

/// Why a run cannot resume from a checkpoint in `folder`: it has no counts for the loss. A new run starts without them.
std::string counts_problem(const Config& before, const Config& now, const std::string& folder) {
  constexpr auto kPrevious = BalanceGranularity::previous_step;
  const auto then = before.model.load_balancing_granularity;
  const bool starts = folder == now.train.init_from;
  if (starts || !now.model.has_experts() || now.model.load_balancing_granularity != kPrevious || then == kPrevious)
    return {};
  return fmt::format(
      "model.load_balancing_granularity: {} -> previous_step: there are no counts of the step before. A run in another "
      "run.folder can start from here, with equal counts in its first step: train.init_from={} "
      "train.init_optimizer=keep train.init_progress=continue",
      enum_name(then), folder);
}

}  // namespace

void check_same_run(const Manifest& manifest, const std::string& folder, const Config& config,
                    const SequenceSource& source, const Communicator& world, UnknownKeys unknown) {
  const auto [before, left_out] = read_manifest_config(manifest, folder, unknown);
  if (!left_out.empty() && world.rank() == 0) log::warn("{}", left_out);
  std::vector<std::string> refused;
  for (const auto& difference : differing_fields(before, config)) {
    if (is_fixed_key(difference.substr(0, difference.find(": "))))
      refused.push_back(difference);
    else
      log::info("changed since {}: {}", folder, difference);
  }
  const auto tokens = compare_fingerprints(manifest.data_fingerprint, source.fingerprint());
  // A different seed or length changes the order of the same files, and is refused already.
  const bool same_order =
      before.run.seed == config.run.seed && before.data.sequence_length == config.data.sequence_length;
  if (!tokens.same && same_order) refused.push_back("the training tokens changed (files, order, sizes or contents)");
  auto skipped = skip_problem(before, config, manifest.sequences);
  if (same_order && !skipped.empty()) refused.push_back(std::move(skipped));
  auto counts = counts_problem(before, config, folder);
  if (!counts.empty()) refused.push_back(std::move(counts));
  auto moments = moments_problem(before.optimizer, config.optimizer, config.model);
  if (!moments.empty()) refused.push_back(std::move(moments));
  if (!tokens.note.empty() && world.rank() == 0) log::warn("{}", tokens.note);
  if (!refused.empty())
    throw CheckpointError(
        fmt::format("{} was written with a different config:\n  {}\nRestore these values, or use another run.folder",
                    folder, fmt::join(refused, "\n  ")));
}

}  // namespace olmoe
