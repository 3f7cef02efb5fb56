#pragma once
#include <functional>
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

/// An evaluation that a run makes of its model.
class EvalTask {
 public:
  virtual ~EvalTask() = default;
  /// Unique among the tasks of a run.
  virtual const std::string& name() const = 0;
  /// Identifies the task's data: ranks with different fingerprints are refused at the start.
  virtual std::string fingerprint() const = 0;
  /// The task's metrics, equal on every rank; none where `stop` returned true. All ranks call `stop` together before
  /// each micro-batch. Collective over world.
  virtual std::optional<std::vector<EvalResult>> run(StageRunner& runner, Communicator& world,
                                                     const std::function<bool()>& stop) const = 0;
};

}  // namespace olmoe
