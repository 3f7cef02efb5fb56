#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/token_files.h"
#include "trainer/analysis/statistic.h"
#include "trainer/inspection/loaded_model.h"
#include "trainer/inspection/statistics_list.h"

namespace olmoe {

/// What is analyzed: tokens of domains, by one model or by several checkpoints of its training.
struct AnalysisOptions {
  struct Domain {
    std::string name;
    std::vector<std::string> files;
  };
  std::vector<std::string> models;  ///< in the order of training: the last one is what others are compared with
  std::vector<Domain> domains;
  int64_t length = 0;                        ///< tokens of a sequence; 0: as the model was trained
  int64_t sequences = 0;                     ///< of each domain; 0: all
  std::vector<std::string> statistics = {};  ///< of statistic_names(); none: all that have what they need
  std::vector<int64_t> table_layers = {};    ///< with counts by id; none: the first, the middle and the last
  int64_t min_count = 128;                   ///< of an id whose distribution over experts is looked at
  std::optional<double> capacity = {};       ///< capacity factor of drops; none: the model's own
  std::string record = {}, replay = {};      ///< routing records to write, of the last model, and to take experts from
  std::optional<TokenDtype> token_dtype = {};
  ForwardLayout layout = {};
  UnknownKeys unknown_keys = UnknownKeys::refused;
};

struct Analysis {
  std::vector<NamedArray> arrays;
  std::map<std::string, std::string> metadata;
  std::string table;  ///< a summary, some lines
};

/// Runs the tokens through each model in turn, the last one first, without drops: docs/analysis.md. Every rank returns
/// the same, which does not depend on their number. Throws ConfigError, naming what, for models without experts or with
/// experts that choose, for models of several shapes, for too few tokens and unknown statistics; DataError,
/// CheckpointError. `world`: for the layout's device. Collective over world.
Analysis analyze_routing(const AnalysisOptions& options, Communicator& world);

}  // namespace olmoe
