#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// A number that an evaluation gives: eval/TASK/METRIC in metrics.jsonl.
struct EvalResult {
  std::string task, metric;
  double value;
};

/// Something that is measured of the model during a run.
class EvalTask {
 public:
  virtual ~EvalTask() = default;
  /// Unique among the tasks of a run.
  virtual const std::string& name() const = 0;
  /// What decides its numbers besides the weights: ranks with another one are refused at the start.
  virtual std::string fingerprint() const = 0;
  /// Its numbers, the same on every rank. Nothing where `stop`, which all ranks ask together before each round of
  /// batches, said so. Collective over world.
  virtual std::optional<std::vector<EvalResult>> run(StageRunner& runner, Communicator& world,
                                                     const std::function<bool()>& stop) const = 0;
};

}  // namespace olmoe
