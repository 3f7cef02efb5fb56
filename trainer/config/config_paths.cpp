#include "trainer/config/config_paths.h"

#include <filesystem>
#include <utility>

#include "core/reader/user_path.h"

namespace olmoe {
namespace {

/// The node at a dotted path, or null without one.
const ConfigNode* find_node(const ConfigNode& tree, std::string_view path) {
  const ConfigNode* node = &tree;
  for (size_t begin = 0; node != nullptr && begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    node = node->find(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return node;
}

class PathResolver {
 public:
  explicit PathResolver(const ConfigNode& tree) : tree_(tree) {}

  bool is_typed(const std::string& key) const {
    const auto* node = find_node(tree_, key);
    return node != nullptr && node->file.empty();
  }
  /// The folder of the file that a value is from; empty for an override: the working directory.
  std::string folder_of(const std::string& key) const {
    const auto* node = find_node(tree_, key);
    return node == nullptr ? "" : std::filesystem::path(node->file).parent_path().string();
  }
  /// Where relative paths of data files of that key start. A root in a file does not apply to overrides.
  std::string start_of_data(const std::string& key, const std::string& root) const {
    return is_typed(key) && !is_typed("data.root") ? "" : root;
  }
  /// Runs `work` and keeps the text of its ConfigError, with the key's name and place.
  template <class F>
  void noting(const std::string& key, const std::string& name, F&& work) {
    try {
      work();
    } catch (const ConfigError& error) {
      const auto* node = find_node(tree_, key);
      problems_.push_back(fmt::format("{}: {}{}", name, error.what(), node ? fmt::format(" ({})", node->where) : ""));
    }
  }
  /// One path; an empty one stays empty.
  void resolve(const std::string& key, std::string& path, const std::string& folder) {
    if (!path.empty()) noting(key, key, [&] { path = user_path(path, folder); });
  }
  void resolve(const std::string& key, const std::string& name, std::vector<std::string>& paths,
               const std::string& folder) {
    for (size_t i = 0; i < paths.size(); ++i)
      noting(key, fmt::format("{}[{}]", name, i), [&] { paths[i] = user_path(paths[i], folder); });
  }
  std::vector<std::string> take_problems() { return std::move(problems_); }

 private:
  const ConfigNode& tree_;
  std::vector<std::string> problems_;
};

}  // namespace

std::vector<std::string> expand_lists(const std::vector<std::string>& paths) {
  std::vector<std::string> all;
  for (const auto& path : paths) {
    const std::filesystem::path list(path);
    if (list.extension() != ".txt") {
      all.push_back(path);
      continue;
    }
    const auto listed = read_path_list(path, list.parent_path().string());
    if (listed.empty()) throw ConfigError(path + ": the list names no file");
    all.insert(all.end(), listed.begin(), listed.end());
  }
  return all;
}

std::vector<std::string> resolve_paths(Config& config, const ConfigNode& tree) {
  PathResolver resolver(tree);
  resolver.resolve("run.folder", config.run.folder, "");
  resolver.resolve("train.init_from", config.train.init_from, "");
  resolver.resolve("train.replay_routing", config.train.replay_routing, "");
  auto& data = config.data;
  resolver.resolve("data.root", data.root, "");
  visit_fields(config, [&](const std::string& path, const ConfigField& field) {
    const auto key = path.substr(0, path.find('['));  // a list comes from one place, whole
    if (field.is_data_files) resolver.resolve(key, path, *field.texts, resolver.start_of_data(key, data.root));
    return true;
  });
  if (!data.paths_file.empty())
    resolver.noting("data.paths_file", "data.paths_file", [&] {
      const auto list = user_path(data.paths_file, resolver.folder_of("data.paths_file"));
      for (auto& path : read_path_list(list, data.root)) data.paths.push_back(std::move(path));
    });
  for (auto [key, tasks] : {std::pair("evaluation.tasks", &config.evaluation.tasks),
                            std::pair("evaluation.final_tasks", &config.evaluation.final_tasks)})
    resolver.noting(key, key, [tasks = tasks] { *tasks = expand_lists(*tasks); });
  data.paths_file.clear();
  data.root.clear();
  return resolver.take_problems();
}

}  // namespace olmoe
