#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/data_loader.h"
#include "trainer/config/config.h"
#include "trainer/stage_runner.h"

namespace olmoe {

/// Mean cross-entropy on held-out token files, in file order.
class Evaluator {
 public:
  struct Result {
    std::string name;  ///< of the evaluation set
    double loss;       ///< nats per target token
  };
  /// The sets of a valid config. Throws DataError for files that are missing, damaged or shorter than a sequence; on
  /// all ranks alike, each of which reads the ids of its share of the sets. Collective over world.
  Evaluator(const Config& config, Communicator& world);
  /// Name and fingerprint of each set, with how many of its sequences are used.
  std::vector<std::pair<std::string, std::string>> fingerprints() const;
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
