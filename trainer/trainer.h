#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/files/json_lines.h"
#include "data/data_loader.h"
#include "parallel/device_mesh.h"
#include "trainer/checkpoint/checkpoint_sender.h"
#include "trainer/checkpoint/checkpointer.h"
#include "trainer/checkpoint_saver.h"
#include "trainer/config/config.h"
#include "trainer/device_step.h"
#include "trainer/evaluator.h"
#include "trainer/health/router_health.h"
#include "trainer/job/lease_watch.h"
#include "trainer/job/resolved_run.h"
#include "trainer/job/run_lease.h"
#include "trainer/metrics.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/stage_runner.h"
#include "trainer/training_source.h"

namespace olmoe {

/// The training loop: optimizer steps with metrics, checkpoints and evaluations. A run found in run.folder resumes from
/// its newest checkpoint.
class Trainer {
 public:
  /// Checks data and folder, initializes or loads the state, and writes the resolved config. `world` must outlive this
  /// object. Throws ConfigError, DataError or CheckpointError on all ranks. Collective over world.
  Trainer(const ResolvedRun& run, Communicator& world);
  /// Trains to train.steps (ok), or until a signal asks to save and leave (preempted). Where metrics cannot be written
  /// it saves, and throws CheckpointError. Collective over world.
  ExitCode run();

  const Optimizer& optimizer() const { return *optimizer_; }
  int64_t step() const { return step_; }
  /// Whether a checkpoint is being written beside training.
  bool saving() const { return checkpointer_.saving(); }
  /// The lease on run.folder, on rank 0; null on the others.
  std::shared_ptr<const RunLease> lease() const { return lease_; }
  /// The groups of ranks, which count the traffic since the start.
  DeviceMesh& mesh() { return mesh_; }
  /// Copies of tokens that this rank dispatched and received in the last step.
  TokenCopies token_copies() const { return runner_->token_copies(); }

 private:
  void lease_folder(std::optional<int64_t> latest_step);
  std::vector<StateTensor> state() const;
  void start_or_resume();
  void start_new();
  void go_back(int64_t step, int64_t newest);
  void resume(int64_t step, int64_t newest);
  void take_over_progress();
  void open_metrics();
  Batch next_batch() { return replayed(loader_->next(), record_.get()); }
  StepMetrics train_step();
  bool is_last() const { return step_ == config_.train.steps; }
  bool evaluation_due() const;
  bool evaluate();
  Manifest manifest(int64_t step) const;
  void ensure_usable(int64_t step);
  void ensure_leased();
  bool leave_now();
  ExitCode leave();
  ExitCode end(ExitCode code);
  ExitCode finish_sending();
  std::string disk_is_low();

  LeaseWatch watch_;  // on rank 0, until the lease is taken
  const ResolvedRun run_;
  const Config& config_ = run_.config;
  std::shared_ptr<const RunLease> lease_;
  bool leased_ = false;
  DeviceMesh mesh_;
  std::shared_ptr<const SequenceSource> source_;
  const std::unique_ptr<const RoutingRecord> record_ = open_record(config_, mesh_.world());
  Evaluator evaluator_;
  std::unique_ptr<StageRunner> runner_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<DeviceStep> device_step_;
  RouterWatch router_watch_;
  CheckpointSender sender_;
  Checkpointer checkpointer_;
  std::optional<CheckpointSaver> saver_;
  int64_t step_ = 0;                     // finished steps
  int64_t earlier_optimizer_steps_ = 0;  // that the moments have seen in another run
  bool resumed_ = false;                 // from a checkpoint of this run
  std::unique_ptr<DataLoader> loader_;
  std::unique_ptr<MetricsLog> metrics_;
  bool evaluation_missing_ = false;  // step_ is due for one that was not made, or was interrupted
};

}  // namespace olmoe
