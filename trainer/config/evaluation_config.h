#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"

namespace olmoe {

/// Held-out tokens with one loss, eval/NAME/loss in metrics.jsonl.
struct EvaluationSet {
  std::string name;
  std::vector<std::string> paths;

  template <class V>
  void fields(V& v) {
    v.required("name", name, "name of the set, in metrics.jsonl eval/NAME/loss");
    v.required("paths", paths, "its token files, in order").data_files();
  }
};

/// Lengths that task metrics divide by. v1: those of the continuation without its first character, the space before a
/// word, as OLMoE's evaluations in training; v2: the whole continuation's, as OLMES.
enum class TaskMetricsVersion { v1, v2 };

template <>
struct EnumNames<TaskMetricsVersion> {
  static constexpr std::array names{"v1", "v2"};
};

struct EvaluationConfig {
  int64_t every_steps = 0;
  std::vector<std::string> paths;
  std::vector<EvaluationSet> sets;
  int64_t max_sequences = 0;
  std::vector<std::string> tasks;
  std::vector<std::string> final_tasks;
  int64_t context = 2048;
  TaskMetricsVersion task_metrics_version = TaskMetricsVersion::v1;

  template <class V>
  void fields(V& v) {
    v("every_steps", every_steps, {0}, "steps between evaluations; the last step is always evaluated; 0: only that");
    v("paths", paths, "held-out token files, one evaluation set each, named by the file").data_files();
    v("sets", sets, "more evaluation sets, each with a name and one file or several").per_host();
    v("max_sequences", max_sequences, {0}, "sequences of a set that are used; 0: all");
    v("tasks", tasks,
      "task files of scripts/prepare_tasks.py that each evaluation scores, eval/NAME/METRIC, named by the file; "
      "NAME.txt "
      "stands for the files that it lists, one a line, relative to it; documents are not masked in them")
        .data_files();
    v("final_tasks", final_tasks, "task files that the last evaluation alone scores; those of tasks may be among them")
        .data_files();
    v("context", context, {2, 1 << 24},
      "ids of a task's text that the model sees; longer contexts lose the first ones");
    v("task_metrics_version", task_metrics_version,
      "lengths that scores and losses are divided by; v1: without the first character of a continuation, as OLMoE; v2: "
      "all of it, as OLMES");
  }
};

/// All evaluation sets in order: one for each file of `paths`, named by its stem, then `sets`.
std::vector<EvaluationSet> evaluation_sets(const EvaluationConfig& config);

/// Names of the results that tasks may have; which of them a task has depends on its file.
inline constexpr std::array kTaskResults{"acc", "len_norm", "pmi_dc",   "acc_uncond",          "f1",        "ce_loss",
                                         "bpb", "soft",     "soft_log", "ce_loss_by_document", "perplexity"};

/// A task file and when it is scored.
struct EvaluationTaskFile {
  std::string name;  ///< the stem of the file
  std::string path;
  bool at_end_only = false;
};

/// The task files in order, those of `tasks` before those of `final_tasks` alone. A file that is named twice is there
/// once.
std::vector<EvaluationTaskFile> evaluation_tasks(const EvaluationConfig& config);

/// Problems of the sets and tasks, one sentence each: duplicate or invalid names, sets without files.
std::vector<std::string> validate(const EvaluationConfig& config);

}  // namespace olmoe
