#include "trainer/same_run.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"
#include "core/log.h"
#include "data/fingerprint.h"
#include "data/sequence_skip.h"

namespace olmoe {
namespace {

/// Keys that make the trained function or the order of the data another one.
constexpr std::array<std::string_view, 4> kFixed{"model.",
                                                 "run.seed:", "train.global_batch_size:", "data.sequence_length:"};
/// Of the model, keys of the loss, its memory and the start.
constexpr std::array<std::string_view, 6> kFree{"model.load_balancing_weight:",
                                                "model.load_balancing_granularity:",
                                                "model.router_z_weight:",
                                                "model.loss_chunk:",
                                                "model.init_std:",
                                                "model.init_cutoff:"};

/// Whether a run may resume with this difference, "key: before -> now".
bool may_change(std::string_view difference) {
  const auto is = [&](std::string_view key) { return difference.starts_with(key); };
  return std::ranges::none_of(kFixed, is) || std::ranges::any_of(kFree, is);
}

}  // namespace

std::string skip_problem(const Config& before, const Config& now, int64_t consumed) {
  const SequenceSkip theirs(before.data.skip, before.train.global_batch_size),
      ours(now.data.skip, now.train.global_batch_size);
  const auto first = theirs.first_difference(ours);
  if (!first || *first >= consumed) return {};
  const int64_t step = *first / now.train.global_batch_size + 1;
  return fmt::format(
      "data.skip: step {} took sequence {} of the stream, and would take {} now. What is trained on cannot be taken "
      "back: resume from step {} or an earlier one (checkpoint.resume)",
      step, theirs.position(*first), ours.position(*first), step - 1);
}

void check_same_run(const Manifest& manifest, const std::string& folder, const Config& config,
                    const SequenceSource& source, const Communicator& world) {
  const auto before = read_saved_config<Config>(manifest.config, folder + "/manifest.json");
  std::vector<std::string> refused;
  for (const auto& difference : differing_fields(before, config)) {
    if (may_change(difference))
      log::info("changed since {}: {}", folder, difference);
    else
      refused.push_back(difference);
  }
  const auto tokens = compare_fingerprints(manifest.data_fingerprint, source.fingerprint());
  // A different seed or length changes the order of the same files, and is refused already.
  const bool same_order =
      before.run.seed == config.run.seed && before.data.sequence_length == config.data.sequence_length;
  if (!tokens.same && same_order) refused.push_back("the training tokens changed (files, order, sizes or contents)");
  auto skipped = skip_problem(before, config, manifest.sequences);
  if (same_order && !skipped.empty()) refused.push_back(std::move(skipped));
  if (!tokens.note.empty() && world.rank() == 0) log::warn("{}", tokens.note);
  if (!refused.empty())
    throw CheckpointError(
        fmt::format("{} was written with a different config:\n  {}\nRestore these values, or use another run.folder",
                    folder, fmt::join(refused, "\n  ")));
}

}  // namespace olmoe
