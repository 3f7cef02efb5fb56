#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "trainer/config.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// Mean cross-entropy on held-out token files, in file order.
class Evaluator {
 public:
  struct Result {
    std::string name;  ///< file name without folder and extension
    double loss;       ///< nats per target token
  };
  /// Throws DataError for files that are missing or damaged, ConfigError for two sets of one name.
  explicit Evaluator(const Config& config);
  /// Loss of each set; every rank gets the same numbers. Collective over world.
  std::vector<Result> evaluate(StageRunner& runner, Communicator& world) const;

 private:
  struct Set {
    std::string name;
    std::shared_ptr<const InstanceSource> source;
    int64_t sequences;
  };
  double evaluate_set(const Set& set, StageRunner& runner, Communicator& world) const;

  std::vector<Set> sets_;
  int64_t micro_batch_;
};

}  // namespace olmoe
