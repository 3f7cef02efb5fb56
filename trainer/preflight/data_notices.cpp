#include "trainer/preflight/data_notices.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string_view>

#include "core/text.h"
#include "trainer/config/evaluation_config.h"

namespace olmoe {
namespace {

/// "a.npy is b.npy, c.npy is listed twice, and 3 more": each pair in the words of `one`.
std::string list_pairs(const std::vector<SameFile>& pairs, std::string (*one)(const SameFile&)) {
  constexpr size_t kShown = 3;
  std::vector<std::string> shown;
  for (const auto& pair : std::span(pairs).first(std::min(kShown, pairs.size()))) shown.push_back(one(pair));
  const auto more = pairs.size() > kShown ? fmt::format(", and {} more", pairs.size() - kShown) : "";
  return fmt::format("{}{}", fmt::join(shown, ", "), more);
}

std::string repeated_in_words(const SameFile& pair) {
  const auto& [first, second] = pair;
  return first == second ? fmt::format("{} is listed twice", first) : fmt::format("{} is {}", second, first);
}

std::string trained_on_in_words(const SameFile& pair) {
  const auto& [training, held_out] = pair;
  return training == held_out ? fmt::format("{} is a training file too", held_out)
                              : fmt::format("{} is the training file {}", held_out, training);
}

}  // namespace

std::optional<TokenTotals> token_totals(const DataConfig& data) {
  if (data.synthetic) return {};
  const int64_t id_bytes = data.dtype == TokenDtype::uint16 ? 2 : 4;
  const auto paths = data.all_paths();
  TokenTotals totals{.files = std::ssize(paths)};
  for (const auto& path : paths) {
    std::error_code unknown;
    const auto size = std::filesystem::file_size(path, unknown);
    if (unknown) return {};
    const int64_t tokens = static_cast<int64_t>(size) / id_bytes;
    totals.tokens += tokens;
    totals.used_tokens += tokens / data.sequence_length * data.sequence_length;
    totals.short_files += tokens < data.sequence_length ? 1 : 0;
  }
  return totals;
}

std::string describe_training_tokens(const Config& config, const TokenTotals& totals) {
  const int64_t length = config.data.sequence_length;
  const int64_t taken = config.train.batch_sizes().until(config.train.steps) * length;
  const double epochs = static_cast<double>(taken) / static_cast<double>(totals.used_tokens);
  return fmt::format("training tokens: {} of {} tokens, of which {} are used, in {} of {}; the run takes {}: {} epochs",
                     counted(totals.files, "file"), grouped(totals.tokens), grouped(totals.used_tokens),
                     counted(totals.used_tokens / length, "sequence"), length, grouped(taken),
                     epochs < 1 ? fmt::format("{:.2g}", epochs) : fmt::format("{:.2f}", epochs));
}

std::string describe_filter(const InstanceFilter& filter) {
  const auto [count, shortest, longest] = filter;
  return fmt::format(
      "data.instance_filter: sequences are masked in which {} equal blocks of {} ids, or more, follow each other; "
      "metrics.jsonl counts them (masked_sequences)",
      count, shortest == longest ? fmt::format("{}", shortest) : fmt::format("{} to {}", shortest, longest));
}

std::vector<std::string> left_out_notices(const Config& config, const TokenTotals& totals) {
  constexpr double kLittle = 0.01;
  if (totals.used_tokens == 0) return {};  // the run refuses that
  const int64_t left_out = totals.tokens - totals.used_tokens;
  const double share = static_cast<double>(left_out) / static_cast<double>(totals.tokens);
  if (share <= kLittle && totals.short_files == 0) return {};
  auto notice = fmt::format(
      "data.paths: {} of {} tokens ({:.2g} %) are left out, since a sequence takes "
      "data.sequence_length = {} tokens of one file",
      grouped(left_out), grouped(totals.tokens), 100 * share, config.data.sequence_length);
  if (totals.short_files > 0)
    notice += fmt::format("; {} of {} are shorter than that and not used at all: join them, or lower it",
                          totals.short_files, counted(totals.files, "file"));
  return {notice};
}

SharedFiles find_shared_files(const Config& config) {
  std::vector<std::string> held_out_paths;
  for (const auto& set : evaluation_sets(config.evaluation))
    held_out_paths.insert(held_out_paths.end(), set.paths.begin(), set.paths.end());
  const auto training = identify_files(config.data.all_paths()), held_out = identify_files(held_out_paths);
  return {shared_files(training, held_out), repeated_files(training), repeated_files(held_out)};
}

std::vector<std::string> shared_file_notices(const SharedFiles& files) {
  std::vector<std::string> notices;
  const auto add = [&](const std::vector<SameFile>& pairs, std::string_view what, std::string (*one)(const SameFile&)) {
    if (!pairs.empty()) notices.push_back(fmt::format("{}: {}", what, list_pairs(pairs, one)));
  };
  add(files.both, "evaluation.paths: the run trains on held-out files, so that their loss is not that of unseen text",
      trained_on_in_words);
  add(files.training, "data.paths: the run sees files twice in each epoch", repeated_in_words);
  add(files.held_out, "evaluation.paths: files are there twice", repeated_in_words);
  return notices;
}

}  // namespace olmoe
