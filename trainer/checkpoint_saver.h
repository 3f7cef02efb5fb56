#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/stopwatch.h"
#include "trainer/checkpoint/checkpointer.h"
#include "trainer/config/config_sections.h"

namespace olmoe {

/// When a run saves, and what becomes of a save that fails. Saves that are due run beside training (checkpoint.async),
/// one at a time; the last one and that of a run that leaves are waited for. A save that fails is tried again when the
/// next one is due. No state is committed that does not give a finite loss. All functions but before_update() are
/// collective over world, and log on rank 0's behalf.
class CheckpointSaver {
 public:
  /// Saves that may fail in a row before the run ends.
  static constexpr int kMostFailures = 3;

  /// What a save takes from its run.
  struct Source {
    std::function<Manifest(int64_t step)> manifest;
    std::function<std::vector<StateTensor>()> state;
    /// Throws an Error with ExitCode::non_finite unless the weights of finished step `step`, which are those of now,
    /// give a finite loss and gradient norm.
    std::function<void(int64_t step)> ensure_usable;
  };

  /// `checkpointer` must outlive this object. Where `config` asks for asynchronous saves, the host memory of their
  /// copies is allocated here: throws c10::Error where there is not enough. `saved_step`: of the checkpoint that was
  /// loaded; -1: none.
  CheckpointSaver(Checkpointer& checkpointer, const CheckpointConfig& config, Source source, int64_t saved_step);
  /// Begins to save `step`, the last that is finished, unless that was done. Waits for the save before it, and says so.
  void begin(int64_t step);
  /// Saves `step` and waits for it. Throws CheckpointError where that fails.
  void save_now(int64_t step);
  /// To be called before the state changes: returns once it was copied.
  void before_update();
  /// To be called after each step whose loss was finite: moves the save on that is in flight. Throws CheckpointError
  /// where it is the third in a row that failed.
  void after_step();
  /// Waits for the save in flight at the end of a run. Throws CheckpointError where it fails.
  void finish();
  /// The same where the step after the saved one gave a loss that was not finite: the save is committed if its own
  /// weights are usable. Does not throw for a save that fails.
  void settle();
  int64_t failures() const { return failures_; }  ///< saves that failed since the start
  int64_t saved_step() const { return saved_step_; }

 private:
  void start(int64_t step, Checkpointer::Mode mode);
  void commit();
  void committed();
  void failed(const Error& error);
  void warn(const std::string& text) const;

  Checkpointer& checkpointer_;
  bool async_;
  Source source_;
  int64_t saved_step_;
  int64_t step_ = -1;       // of the save in flight
  bool confirmed_ = false;  // its weights gave a finite loss
  int64_t failures_ = 0;
  int failures_in_a_row_ = 0;
  Stopwatch watch_;      // since the save in flight began
  double waited_s_ = 0;  // training waited for it
};

}  // namespace olmoe
