#include "trainer/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>

namespace olmoe {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kStepPrefix = "step_";

std::optional<int64_t> parse_step(const std::string& name) {
  if (!name.starts_with(kStepPrefix) || name.size() != kStepPrefix.size() + 9) return {};
  uint32_t step = 0;  // unsigned: from_chars would take a minus sign as well
  const auto* end = name.data() + name.size();
  const auto result = std::from_chars(name.data() + kStepPrefix.size(), end, step);
  return result.ec == std::errc() && result.ptr == end ? std::optional<int64_t>(step) : std::nullopt;
}

}  // namespace

std::string step_name(int64_t step) { return fmt::format("{}{:09}", kStepPrefix, step); }

std::vector<int64_t> complete_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  // Of the name itself: a link to a disk that is not mounted is no missing folder.
  if (fs::symlink_status(folder).type() == fs::file_type::not_found) return steps;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const auto step = parse_step(entry.path().filename()); step && fs::exists(entry.path() / "manifest.json"))
      steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace olmoe
