#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "trainer/config.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// Names of evaluation sets: those of their files without folder and extension. Throws ConfigError where two are equal.
std::vector<std::string> evaluation_set_names(const std::vector<std::string>& paths);

/// Mean cross-entropy on held-out token files, in file order.
class Evaluator {
 public:
  struct Result {
    std::string name;  ///< evaluation_set_names
    double loss;       ///< nats per target token
  };
  /// Throws DataError for files that are missing, damaged or shorter than a sequence, ConfigError for two sets of one
  /// name; on all ranks alike, each of which reads the ids of its share of the files. Collective over world.
  Evaluator(const Config& config, Communicator& world);
  bool empty() const { return sets_.empty(); }
  /// Loss of each set; every rank gets the same numbers. Nothing where `stop`, which all ranks ask together before each
  /// round of batches, said so. Collective over world.
  std::optional<std::vector<Result>> evaluate(StageRunner& runner, Communicator& world,
                                              const std::function<bool()>& stop) const;

 private:
  struct Set {
    std::string name;
    std::shared_ptr<const InstanceSource> source;
    int64_t sequences;
  };
  std::optional<double> evaluate_set(const Set& set, StageRunner& runner, Communicator& world,
                                     const std::function<bool()>& stop) const;

  std::vector<Set> sets_;
  int64_t micro_batch_;
};

}  // namespace olmoe
