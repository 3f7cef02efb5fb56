#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/files/json_lines.h"
#include "parallel/mesh_traffic.h"
#include "trainer/eval_task.h"

namespace olmoe {

/// What one optimizer step says of itself; the same on all ranks, but for its traffic.
struct StepMetrics {
  int64_t step, tokens;                       ///< tokens since the start of the run
  double loss;                                ///< mean cross-entropy, nats
  double load_balancing_loss, router_z_loss;  ///< unweighted, means over layers and micro-batches
  double max_expert_load;  ///< assignments of the busiest expert / the mean, largest over layers; 0 without experts
  int64_t dropped_assignments;  ///< of all ranks and layers; 0 unless model.capacity_factor is set
  double grad_norm, lr;
  double tokens_per_s;                       ///< all ranks together
  std::optional<int64_t> peak_memory_bytes;  ///< of tensors on rank 0's device since the start; where they are counted
  MeshTraffic traffic = {};  ///< of this rank, in this step; with expert parallelism also its copies of tokens
  std::optional<int64_t> host_syncs = {};  ///< how often the host waited for its GPU within the step, where counted
};

/// metrics.jsonl and the console. Writes on rank 0. On all ranks it is the guard of what is written: a number of the
/// run's that is not finite is an Error with ExitCode::non_finite, which names it.
class MetricsLog {
 public:
  /// Cuts metrics.jsonl back to `step`, the one that the run goes on from. A run that starts anew, at step 0, first
  /// renames what an earlier one left to metrics.jsonl.old-1 (or -2, ...). Throws Error where it cannot be written.
  MetricsLog(const std::string& run_folder, bool writes, int64_t step, int64_t train_steps, int64_t console_every);
  void write(const StepMetrics& metrics);
  void write(int64_t step, const std::vector<EvalResult>& results);
  /// True where the step that the run goes on from has its evaluation already. On ranks that do not write: false.
  bool has_evaluation() const { return has_evaluation_; }
  /// Why a line could not be written; none is from then on. A run must not end in the middle of a step for that.
  const std::string& problem() const { return problem_; }

 private:
  void append(const JsonLine& line);

  std::unique_ptr<JsonLinesFile> file_;  // null on ranks that do not write
  std::string problem_;
  bool has_evaluation_ = false;
  std::string run_folder_;
  int64_t train_steps_, console_every_;
  double seconds_per_step_ = 0;  // smoothed, for the time that is left
};

}  // namespace olmoe
