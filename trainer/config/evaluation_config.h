#pragma once
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

struct EvaluationConfig {
  int64_t every_steps = 0;
  std::vector<std::string> paths;
  std::vector<EvaluationSet> sets;
  int64_t max_sequences = 0;

  template <class V>
  void fields(V& v) {
    v("every_steps", every_steps, {0}, "steps between evaluations; the last step is always evaluated; 0: only that");
    v("paths", paths, "held-out token files, one evaluation set each, named by the file").data_files();
    v("sets", sets, "more evaluation sets, each with a name and one file or several").per_host();
    v("max_sequences", max_sequences, {0}, "sequences of a set that are used; 0: all");
  }
};

/// All evaluation sets in order: one for each file of `paths`, named by its stem, then `sets`.
std::vector<EvaluationSet> evaluation_sets(const EvaluationConfig& config);

/// Problems of the sets, one sentence each: duplicate or invalid names, sets without files.
std::vector<std::string> validate(const EvaluationConfig& config);

}  // namespace olmoe
