// What tests of the trainer share: a tiny run, its metrics, and its trained tensors by name.
#pragma once
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "core/files/files.h"
#include "core/log.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/temp_folder.h"
#include "trainer/trainer.h"

namespace olmoe::test {

/// Three micro-batches of 2, 2 and 1 sequences a step: ranks have unequal work, and one of four has
/// none.
inline Config tiny_run(const std::string& folder) {
  log::set_level(log::Level::error);  // hundreds of runs would bury what a test says
  Config config;
  config.run.folder = folder;
  config.model = tiny_model();
  config.train.steps = 3;
  config.train.compute_dtype = ComputeDtype::float64;
  config.train.micro_batch_size = 2;
  config.train.global_batch_size = 5;
  config.optimizer.lr = 1e-3;
  config.schedule.warmup_steps = 1;
  config.data.synthetic = true;
  config.data.sequence_length = 12;
  config.checkpoint.every_steps = 0;
  config.checkpoint.save_last = false;
  config.log.every_steps = 1'000'000;
  return config;
}

/// A token file's content: `count` ids, each `step` above the one before, below tiny_model's 50.
inline std::string token_bytes(int count, int step) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes += {static_cast<char>(i * step % 50), '\0'};
  return bytes;
}

/// True for what a layout sends, which the curve of a run does not depend on.
inline bool is_traffic(const std::string& key) {
  return key.starts_with("calls/") || key.starts_with("sent_bytes/") || key.starts_with("copies_");
}

/// The lines of metrics.jsonl without what depends on the clock.
inline std::vector<nlohmann::json> lines_of(const std::string& run_folder) {
  std::istringstream text(read_text(run_folder + "/metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) {
    lines.push_back(nlohmann::json::parse(line));
    lines.back().erase("tokens_per_s");
    lines.back().erase("peak_memory_bytes");
  }
  return lines;
}

/// The same without what depends on the layout.
inline std::vector<nlohmann::json> metrics_of(const std::string& run_folder) {
  auto lines = lines_of(run_folder);
  for (auto& line : lines)
    for (auto item = line.begin(); item != line.end();)
      item = is_traffic(item.key()) ? line.erase(item) : std::next(item);
  return lines;
}

/// What one rank trained, by kind ("weight", "exp_avg", "exp_avg_sq") and name of the parameter.
inline std::map<std::string, FlatParams> whole_state(const Trainer& trainer) {
  std::map<std::string, FlatParams> out;
  for (const auto& state : trainer.optimizer().state())
    for (const auto& slice : state.slices)
      out[state.kind][slice.name] = state.flat.narrow(0, slice.offset, slice.end - slice.begin).clone();
  return out;
}

/// A finished run of one rank: what others are compared with.
struct FinishedRun {
  std::vector<nlohmann::json> metrics;
  std::map<std::string, FlatParams> state;
};

/// Throws an Error that names the problems of a config that the program would refuse.
inline void ensure_valid(const Config& config) {
  const auto problems = validate(config);
  ENSURE(problems.empty(), "{}", fmt::join(problems, "; "));
}

inline FinishedRun run_single(const Config& config) {
  ensure_valid(config);
  const auto world = make_single_communicator();
  Trainer trainer(resolve_run(config, world->size()), *world);
  ENSURE(trainer.run() == ExitCode::ok, "a tiny run did not end well");
  return {metrics_of(config.run.folder), whole_state(trainer)};
}

/// Trains on thread ranks to the end, or throws what the run throws.
inline void run_to_the_end(int ranks, const Config& config) {
  ensure_valid(config);
  run_ranks(ranks, [&](Communicator& world) {
    Trainer trainer(resolve_run(config, world.size()), world);
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
  });
}

/// Six steps, with every checkpoint kept.
inline Config saving_run(const std::string& folder) {
  auto config = tiny_run(folder);
  config.train.steps = 6;
  config.checkpoint.every_steps = 1;
  config.checkpoint.keep = 0;
  config.schedule.decay_steps = 20;
  return config;
}

inline std::string step_folder(const Config& config, int64_t step) {
  return fmt::format("{}/checkpoints/step_{:09}", config.run.folder, step);
}

/// Checks that two runs saved the same bytes of trained state at a step.
inline void check_same_shards(const Config& ours, const Config& expected, int64_t step, int ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    const auto shard = fmt::format("/shard_{:05}.safetensors", rank);
    CHECK(read_text(step_folder(ours, step) + shard) == read_text(step_folder(expected, step) + shard));
  }
}

/// Largest error of this rank's slices of one kind of state against whole parameters, relative to
/// the largest element of each; infinite where a number is missing. Throws where the reference of a
/// parameter is zero, which would hold for anything.
inline double slice_error(const Trainer& trainer, const std::string& kind, const FinishedRun& reference) {
  double worst = 0;
  for (const auto& state : trainer.optimizer().state()) {
    if (state.kind != kind) continue;
    for (const auto& slice : state.slices) {
      const auto& whole = reference.state.at(kind).at(slice.name);
      const auto ours = state.flat.narrow(0, slice.offset, slice.end - slice.begin).cpu();
      const auto gap = (ours - whole.narrow(0, slice.begin, slice.end - slice.begin)).abs();
      const double scale = whole.abs().max().item<double>();
      ENSURE(scale > 0, "{} of {} is zero in the reference", kind, slice.name);
      const double error = gap.max().item<double>() / scale;
      worst = error <= 1e100 ? std::max(worst, error) : INFINITY;
    }
  }
  return worst;
}

/// Every path below a folder with its size and time of change: equal means that nothing was
/// written.
inline std::string snapshot(const std::string& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    lines.push_back(fmt::format("{} {} {}\n", entry.path().string(), entry.is_regular_file() ? entry.file_size() : 0,
                                entry.last_write_time().time_since_epoch().count()));
  std::sort(lines.begin(), lines.end());
  std::string all;
  for (const auto& line : lines) all += line;
  return all;
}

}  // namespace olmoe::test
