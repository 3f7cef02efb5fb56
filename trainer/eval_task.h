#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// One metric of an evaluation: eval/TASK/METRIC in metrics.jsonl.
struct EvalResult {
  std::string task, metric;
  double value;
};

/// What a task reads, all of its files.
struct EvalSize {
  int64_t tokens = 0, sequences = 0;
};

/// An evaluation that a run makes of its model.
class EvalTask {
 public:
  virtual ~EvalTask() = default;
  /// Unique among the tasks of a run.
  virtual const std::string& name() const = 0;
  /// Identifies the task's data: ranks with different fingerprints are refused at the start.
  virtual std::string fingerprint() const = 0;
  virtual EvalSize size() const = 0;
  /// The task's metrics, equal on every rank; none where `stop` returned true. All ranks call `stop` together before
  /// each micro-batch. Collective over world.
  virtual std::optional<std::vector<EvalResult>> run(StageRunner& runner, Communicator& world,
                                                     const std::function<bool()>& stop) const = 0;
};

/// A task that a config names, before its files are opened: a run makes it, and so does a dry run.
struct PlannedTask {
  std::string name;  ///< for messages: "evaluation set wiki"
  std::vector<std::string> files;
  /// Makes it of `here`: all `files`, or in a dry run those that this machine has; then only what each says by itself
  /// is checked. With `reads_all` every byte of them is. Throws DataError.
  std::function<std::unique_ptr<EvalTask>(const std::vector<std::string>& here, bool reads_all)> make;
  bool at_end_only = false;  ///< the last evaluation of a run alone runs it
};

}  // namespace olmoe
