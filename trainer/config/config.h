#pragma once
#include <string>
#include <vector>

#include "core/reader/config_reader.h"
#include "data/config.h"
#include "model/config.h"
#include "parallel/device_mesh.h"
#include "trainer/config/config_sections.h"

namespace olmoe {

/// The config of a run. docs/config.md is generated from these fields.
struct Config {
  RunConfig run;
  ModelConfig model;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  ParallelConfig parallel;
  DataConfig data;
  EvaluationConfig evaluation;
  CheckpointConfig checkpoint;
  LogConfig log;

  template <class V>
  void fields(V& v) {
    v("run", run, "the run");
    v("model", model, "what is computed");
    v("train", train, "how it is trained");
    v("optimizer", optimizer, "AdamW");
    v("schedule", schedule, "learning rate");
    v("parallel", parallel, "layout over ranks");
    v("data", data, "training tokens");
    v("evaluation", evaluation, "held-out loss and tasks");
    v("checkpoint", checkpoint, "saving");
    v("log", log, "console");
  }
};

/// Reads a config file and its overrides, and resolves its paths. Throws one ConfigError that lists every problem,
/// those that span fields too.
Config load_config(const std::string& path, const std::vector<std::string>& overrides);
/// Problems that span fields, one sentence each. Empty: valid.
std::vector<std::string> validate(const Config& config);

}  // namespace olmoe
