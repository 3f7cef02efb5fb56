// Task files as scripts/prepare_tasks.py makes them, written from what a test says.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/files/safetensors.h"
#include "support/temp_folder.h"
#include "trainer/evaluation/task_file.h"

namespace olmoe::test {

using Ids = std::vector<int32_t>;

struct MadeTask {
  std::map<std::string, std::string> metadata{{"format", "olmoe-task 1"},  {"name", "made"},
                                              {"kind", "multiple_choice"}, {"metric", "acc"},
                                              {"tokenizer", "bytes"},      {"vocab_size", "50"},
                                              {"source", "a test"},        {"prepared", "olmoe prepare_tasks 1"}};
  std::vector<Ids> contexts, continuations;
  std::vector<TaskRow> rows;
  std::vector<int64_t> labels;
  std::function<void(std::vector<safetensors::Item>&)> change;  ///< of the tensors, before they are written

  /// A task of another kind, with the metric that it reports.
  static MadeTask of(const std::string& kind, const std::string& metric) {
    MadeTask task;
    task.metadata["kind"] = kind;
    task.metadata["metric"] = metric;
    return task;
  }

  /// A document with a context and a continuation for each row. A character is a byte, and each id stands for two.
  void add(int64_t label, const std::vector<std::pair<Ids, Ids>>& of_document, const std::optional<Ids>& domain = {}) {
    for (size_t choice = 0; choice < of_document.size(); ++choice) {
      const auto& [context, continuation] = of_document[choice];
      const int64_t chars = 2 * std::ssize(continuation);
      rows.push_back({std::ssize(labels), static_cast<int64_t>(choice), place_of(contexts, context),
                      place_of(continuations, continuation), domain ? place_of(contexts, *domain) : -1, chars, chars,
                      chars - 1, chars - 1});
    }
    labels.push_back(label);
  }

  /// Writes NAME.safetensors and returns its path.
  std::string write(const TempFolder& folder) const {
    std::map<std::string, std::vector<int64_t>> columns{{"document_label", labels}};
    std::map<std::string, Ids> lists;
    const auto add_lists = [&](const std::string& name, const std::vector<Ids>& all) {
      auto& bounds = columns[name + "_bounds"];
      auto& ids = lists[name + "_ids"];
      bounds.push_back(0);
      for (const auto& list : all) {
        ids.insert(ids.end(), list.begin(), list.end());
        bounds.push_back(std::ssize(ids));
      }
    };
    add_lists("context", contexts);
    add_lists("continuation", continuations);
    for (const auto& [name, member] : row_columns()) {
      auto& column = columns[name];
      for (const auto& row : rows) column.push_back(row.*member);
    }
    std::vector<safetensors::Item> items;
    for (const auto& [name, values] : columns)
      items.push_back({name, safetensors::Dtype::i64, {std::ssize(values)}, std::as_bytes(std::span(values))});
    for (const auto& [name, ids] : lists)
      items.push_back({name, safetensors::Dtype::i32, {std::ssize(ids)}, std::as_bytes(std::span(ids))});
    if (change) change(items);
    const auto path = folder / (metadata.at("name") + ".safetensors");
    safetensors::write(path, items, metadata);
    return path;
  }

 private:
  static std::map<std::string, int64_t TaskRow::*> row_columns() {
    return {{"row_document", &TaskRow::document}, {"row_choice", &TaskRow::choice},
            {"row_context", &TaskRow::context},   {"row_continuation", &TaskRow::continuation},
            {"row_domain", &TaskRow::domain},     {"row_chars", &TaskRow::chars},
            {"row_bytes", &TaskRow::bytes},       {"row_chars_v1", &TaskRow::chars_v1},
            {"row_bytes_v1", &TaskRow::bytes_v1}};
  }
  static int64_t place_of(std::vector<Ids>& lists, const Ids& list) {
    const auto found = std::find(lists.begin(), lists.end(), list);
    if (found != lists.end()) return found - lists.begin();
    lists.push_back(list);
    return std::ssize(lists) - 1;
  }
};

/// Two documents of two choices, whose contexts and continuations are partly the same.
inline MadeTask small_task() {
  MadeTask task;
  task.add(1, {{{1, 2, 3}, {4, 5}}, {{1, 2, 3}, {6}}});
  task.add(0, {{{7, 8}, {6}}, {{7, 8}, {9, 10, 11}}});
  return task;
}

}  // namespace olmoe::test
