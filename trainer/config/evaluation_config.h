#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"

namespace olmoe {

/// Held-out tokens whose loss is told as one number, eval/NAME/loss in metrics.jsonl.
struct EvaluationSet {
  std::string name;
  std::vector<std::string> paths;

  template <class V>
  void fields(V& v) {
    v.required("name", name, "of the set, in metrics.jsonl eval/NAME/loss");
    v.required("paths", paths, "its token files, in order");
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
    v("paths", paths, "held-out token files, one evaluation set each, named by the file");
    v("sets", sets, "evaluation sets with a name of their own and one file or several, beside those of paths");
    v("max_sequences", max_sequences, {0}, "sequences of a set that are used; 0: all");
  }
};

/// All evaluation sets in order: one of each file of `paths`, named by it without folder and extension, then `sets`.
std::vector<EvaluationSet> evaluation_sets(const EvaluationConfig& config);

/// Problems with the sets of `config`, one sentence each: a name that stands twice or is no name, a set without files.
std::vector<std::string> validate(const EvaluationConfig& config);

}  // namespace olmoe
