#include "trainer/checkpoint/manifest_config.h"

#include <fmt/ranges.h>

#include <utility>
#include <vector>

#include "core/version.h"
#include "trainer/config/fixed_keys.h"

namespace olmoe {
namespace {

/// Both versions: "x/manifest.json: written by version 0.2.0 (commit 1a2b3c); this is version 0.1.0 (commit 4d5e6f)".
std::string describe_versions(const Manifest& manifest, const std::string& folder) {
  const auto made = [&](const char* key, const char* missing) {
    const auto found = manifest.made_by.find(key);
    return found == manifest.made_by.end() ? std::string(missing) : found->second;
  };
  return fmt::format("{}/manifest.json: written by version {} (commit {}); this is version {} (commit {})", folder,
                     made("version", "unknown"), made("git_commit", "unknown"), kVersion, kGitCommit);
}

std::string describe(const UnknownSetting& setting) {
  return setting.words.empty() ? fmt::format("{}: unknown key, its value is {}", setting.key, setting.value)
                               : fmt::format("{}: {} is not {}", setting.key, setting.value, setting.words);
}

std::string describe_left_out(const UnknownSetting& setting) {
  if (!setting.words.empty()) return describe(setting) + "; its default is taken";
  const auto* const risk = is_fixed_key(setting.key) ? "; what it made of the model is not known here" : "";
  return fmt::format("{}: {}{}", setting.key, setting.value, risk);
}

std::string advice_for(bool can_be_ignored) {
  std::string text = "Read it with the version that wrote it";
  if (can_be_ignored)
    text += ", or give --ignore-unknown, which leaves these keys out and takes the default where a word is unknown";
  return text;
}

}  // namespace

ManifestConfig read_manifest_config(const Manifest& manifest, const std::string& folder, UnknownKeys unknown) {
  auto saved = read_saved_config<Config>(manifest.config);
  std::vector<std::string> refused, left_out;
  bool can_be_ignored = saved.problems.empty();
  for (const auto& setting : saved.unknown) {
    const bool is_order = setting.key.starts_with("data.skip");  // of what was trained on
    const bool is_fixed = is_order || (!setting.words.empty() && is_fixed_key(setting.key));
    can_be_ignored &= !is_fixed;
    if (is_fixed)
      refused.push_back(describe(setting) + "; it decides what is trained, and is never left out");
    else if (unknown == UnknownKeys::refused)
      refused.push_back(describe(setting));
    else
      left_out.push_back(describe_left_out(setting));
  }
  for (auto& problem : saved.problems) refused.push_back(std::move(problem));
  const auto list = [&](const char* what, const std::vector<std::string>& lines) {
    return fmt::format("{}{}:\n  {}", describe_versions(manifest, folder), what, fmt::join(lines, "\n  "));
  };
  if (!refused.empty())
    throw CheckpointError(list(", which cannot read its config", refused) + "\n" + advice_for(can_be_ignored));
  return {std::move(saved.config), left_out.empty() ? "" : list(". Left out of its config", left_out)};
}

}  // namespace olmoe
