#include "trainer/config/evaluation_config.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/utf8.h"

namespace olmoe {
namespace {

/// The key of a set: "evaluation.paths[1]", "evaluation.sets[0]".
std::string place_of(const EvaluationConfig& config, size_t set) {
  const size_t listed = config.paths.size();
  return set < listed ? fmt::format("evaluation.paths[{}]", set) : fmt::format("evaluation.sets[{}]", set - listed);
}

/// A name is part of a key, eval/NAME/loss, and of log lines.
bool is_name(const std::string& name) {
  constexpr size_t kMostBytes = 255;
  return !name.empty() && name.size() <= kMostBytes && name.find('/') == std::string::npos &&
         std::none_of(name.begin(), name.end(), is_control);
}

}  // namespace

std::vector<EvaluationSet> evaluation_sets(const EvaluationConfig& config) {
  std::vector<EvaluationSet> sets;
  for (const auto& path : config.paths) sets.push_back({std::filesystem::path(path).stem(), {path}});
  sets.insert(sets.end(), config.sets.begin(), config.sets.end());
  return sets;
}

std::vector<EvaluationTaskFile> evaluation_tasks(const EvaluationConfig& config) {
  std::vector<EvaluationTaskFile> tasks;
  const auto add = [&](const std::string& path, bool at_end_only) {
    const auto is_same = [&](const EvaluationTaskFile& task) { return task.path == path; };
    if (std::ranges::none_of(tasks, is_same)) tasks.push_back({std::filesystem::path(path).stem(), path, at_end_only});
  };
  for (const auto& path : config.tasks) add(path, false);
  for (const auto& path : config.final_tasks) add(path, true);
  return tasks;
}

namespace {

/// Names of tasks that cannot be, or that a set or an earlier task has: results are eval/NAME/...
void check_tasks(const EvaluationConfig& config, const std::vector<EvaluationSet>& sets,
                 std::vector<std::string>& problems) {
  std::map<std::string, std::string> users;
  for (size_t i = 0; i < sets.size(); ++i) users.try_emplace(sets[i].name, place_of(config, i));
  for (const auto& task : evaluation_tasks(config)) {
    const auto key = fmt::format("evaluation.{}: {}", task.at_end_only ? "final_tasks" : "tasks", printable(task.path));
    if (!is_name(task.name))
      problems.push_back(key + ": its name has control characters, or more than 255 bytes, or none");
    const auto [user, is_new] = users.try_emplace(task.name, task.path);
    if (!is_new)
      problems.push_back(fmt::format("{}: the name {} is taken by {}: results go by names", key, printable(task.name),
                                     printable(user->second)));
  }
}

}  // namespace

std::vector<std::string> validate(const EvaluationConfig& config) {
  std::vector<std::string> problems;
  std::map<std::string, size_t> first;
  const auto sets = evaluation_sets(config);
  for (size_t i = 0; i < sets.size(); ++i) {
    const auto& [name, paths] = sets[i];
    const auto place = place_of(config, i);
    if (paths.empty()) problems.push_back(fmt::format("{}.paths: names no file", place));
    if (!is_name(name))
      problems.push_back(fmt::format("{}: '{}' cannot name a set: 1 to 255 bytes without / and control characters",
                                     place, printable(name)));
    const auto [twin, is_new] = first.try_emplace(name, i);
    if (!is_new)
      problems.push_back(
          fmt::format("{}: a second set named {}, after {}; give names: evaluation.sets: "
                      "[{{name: A, paths: [FILE]}}, {{name: B, paths: [FILE]}}]",
                      place, printable(name), place_of(config, twin->second)));
  }
  check_tasks(config, sets, problems);
  return problems;
}

}  // namespace olmoe
