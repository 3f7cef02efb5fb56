#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/eval_task.h"

namespace olmoe {

/// The tasks that a valid config names, in order. They refer to `config`.
std::vector<PlannedTask> planned_tasks(const Config& config);
/// Calls `work` with each of them. Throws one DataError with the problems of all: a wrong data.dtype is one of each.
void for_each_task(const Config& config, const std::function<void(const PlannedTask& task)>& work);

/// The evaluation tasks of a run.
class Evaluator {
 public:
  /// Those of a valid config. Each rank reads the ids of its share of the sets. Throws one DataError on all
  /// ranks for files that are missing, damaged, of another dtype or shorter than a sequence, of all sets. Collective
  /// over world.
  Evaluator(const Config& config, Communicator& world);
  explicit Evaluator(std::vector<std::unique_ptr<EvalTask>> tasks);
  /// Name and fingerprint of each task.
  std::vector<std::pair<std::string, std::string>> fingerprints() const;
  /// What all tasks read.
  EvalSize size() const;
  /// Whether an evaluation, or the last one of a run, has anything to do.
  bool has_tasks(bool last) const;
  /// Runs every task that is due in an evaluation, or in the last one; none where `stop` returned true (EvalTask::run).
  /// Collective over world.
  std::optional<std::vector<EvalResult>> evaluate(StageRunner& runner, Communicator& world, bool last,
                                                  const std::function<bool()>& stop) const;

 private:
  struct Scheduled {
    std::unique_ptr<EvalTask> task;
    bool at_end_only;
  };
  std::vector<Scheduled> tasks_;
};

}  // namespace olmoe
