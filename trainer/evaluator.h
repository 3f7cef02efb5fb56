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

/// The tasks of a run's evaluation.
class Evaluator {
 public:
  /// Those of a valid config: its held-out sets. Throws DataError for files that are missing, damaged or shorter than a
  /// sequence; on all ranks alike, each of which reads the ids of its share of the sets. Collective over world.
  Evaluator(const Config& config, Communicator& world);
  explicit Evaluator(std::vector<std::unique_ptr<EvalTask>> tasks) : tasks_(std::move(tasks)) {}
  /// Name and fingerprint of each task.
  std::vector<std::pair<std::string, std::string>> fingerprints() const;
  bool empty() const { return tasks_.empty(); }
  /// Runs every task. Nothing where `stop` said so (EvalTask::run). Collective over world.
  std::optional<std::vector<EvalResult>> evaluate(StageRunner& runner, Communicator& world,
                                                  const std::function<bool()>& stop) const;

 private:
  std::vector<std::unique_ptr<EvalTask>> tasks_;
};

}  // namespace olmoe
