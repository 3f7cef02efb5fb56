#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/files/json_lines.h"
#include "parallel/mesh_traffic.h"
#include "trainer/eval_task.h"
#include "trainer/health/router_health.h"

namespace olmoe {

/// Metrics of one optimizer step. Speed, memory, traffic and host syncs are a rank's own; all else is equal on all
/// ranks.
struct StepMetrics {
  int64_t step, tokens;                       ///< tokens since the start of the run
  double loss;                                ///< mean cross-entropy, nats
  double load_balancing_loss, router_z_loss;  ///< unweighted, means over layers and micro-batches
  double router_entropy = 0;                  ///< nats, the same means
  RouterHealth router = {};
  int64_t dropped_assignments;  ///< of all ranks and layers; 0 unless model.capacity_factor is set
  double grad_norm, lr;
  double tokens_per_s;  ///< of all ranks together
  std::optional<int64_t>
      peak_memory_bytes;     ///< peak of tensor memory on this rank's device since the start, where counted
  MeshTraffic traffic = {};  ///< of this rank, in this step; with expert parallelism also its copies of tokens
  std::optional<int64_t> host_syncs = {};      ///< host syncs within the step, where counted
  std::optional<RankCounts> rank_counts = {};  ///< in the steps of log.routing_every_steps
  std::optional<double> output_z_loss = {};    ///< unweighted mean over the targets, with model.output_z_weight
  int64_t masked_sequences = 0;                ///< of all ranks, by data.instance_filter; written if there are any
  int64_t checkpoint_failures = 0;             ///< saves that failed since the start; written if there are any
};

/// "eval/TASK/METRIC", the key of an evaluation's result in metrics.jsonl.
std::string metric_key(const EvalResult& result);
/// Values of a key in a metrics.jsonl, by step; none where there is no such file. Lines that are not JSON are skipped.
/// Throws FileError where it cannot be read.
std::map<int64_t, double> metric_by_step(const std::string& path, const std::string& key);

/// metrics.jsonl and the console, written on rank 0, with the warnings of a step's routers. On all ranks, write()
/// throws Error with ExitCode::non_finite that names a metric of the run that is not finite.
class MetricsLog {
 public:
  /// Cuts metrics.jsonl back to `step`, from which the run resumes. A new run, or one at step 0, first renames an
  /// existing file to metrics.jsonl.old-1 (or -2, ...). Throws Error where it cannot be written.
  MetricsLog(const std::string& run_folder, bool writes, int64_t step, int64_t train_steps, int64_t console_every,
             bool new_run = false);
  void write(const StepMetrics& metrics);
  void write(int64_t step, const std::vector<EvalResult>& results);
  /// True where the step from which the run resumes is evaluated already; false on ranks that do not write.
  bool has_evaluation() const { return has_evaluation_; }
  /// Lines that may wait in memory because they could not be written; they are written, in order, as soon as they can
  /// be.
  static constexpr size_t kMostWaiting = 10'000;
  /// Why more lines wait than may; empty: they do not. write() does not throw for it, so that the run can save its step
  /// before it ends.
  std::string problem() const;
  /// Tries to write the lines that wait. Returns why some still do; empty: none does. For the end of a run.
  std::string close();

 private:
  void append(const JsonLine& line);

  std::unique_ptr<JsonLinesFile> file_;  // null on ranks that do not write
  bool has_evaluation_ = false;
  std::string run_folder_;
  int64_t train_steps_, console_every_;
  double seconds_per_step_ = 0;  // smoothed, for the remaining time
  int64_t masked_ = 0;           // sequences since the last console line
};

}  // namespace olmoe
