#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/reader/config_reader.h"
#include "trainer/config/evaluation_config.h"

namespace olmoe {

inline constexpr int64_t kMostSteps = 999'999'999;  // names of checkpoints have nine digits

/// Which values of checkpoint.keep_best_metric are the best.
enum class BestMode { min, max };

template <>
struct EnumNames<BestMode> {
  static constexpr std::array names{"min", "max"};
};

/// What a run does about a damaged checkpoint of its own.
enum class OnDamage { fall_back, stop };

template <>
struct EnumNames<OnDamage> {
  static constexpr std::array names{"fall_back", "stop"};
};

/// When a checkpoint that no rule keeps is removed.
enum class DeleteLocal { at_once, after_verified };

template <>
struct EnumNames<DeleteLocal> {
  static constexpr std::array names{"at_once", "after_verified"};
};

/// Another interval between checkpoints, for the steps up to one.
struct SaveInterval {
  int64_t until_step = 0;
  int64_t every_steps = 0;

  template <class V>
  void fields(V& v) {
    v.required("until_step", until_step, {1, kMostSteps},
               "last step of the interval, which begins after the one before");
    v.required("every_steps", every_steps, {0}, "steps between checkpoints in it; 0: none");
  }
};

/// When checkpoints are written (save_due() in save_cadence.h), which stay (steps_to_remove() in retention.h), and how
/// they are sent elsewhere (checkpoint_sender.h).
struct CheckpointConfig {
  int64_t every_steps = 1000;
  int64_t keep = 3;
  bool save_last = true;
  std::vector<SaveInterval> cadence = {};
  int64_t keep_every_steps = 0;
  int64_t keep_weights_every_steps = 0;
  int64_t keep_best = 0;
  std::string keep_best_metric = {};
  BestMode keep_best_mode = BestMode::min;
  bool async = true;
  OnDamage on_damage = OnDamage::fall_back;
  std::string resume = "newest";
  double min_free = 0;
  std::string after_save = {};
  std::string verify_copy = {};
  DeleteLocal delete_local = DeleteLocal::at_once;
  int64_t after_save_tries = 20;
  int64_t after_save_limit_s = 3600;
  int64_t after_save_wait_s = 600;

  template <class V>
  void fields(V& v) {
    v("every_steps", every_steps, {0}, "steps between checkpoints; 0: none but the last");
    v("cadence", cadence,
      "other intervals for the first steps: [{until_step: 5000, every_steps: 250}]; every_steps after the last of "
      "them");
    v("save_last", save_last, "save the last step too; a run that a signal stops is always saved");
    v("keep", keep, {0}, "newest checkpoints to keep; 0: all");
    v("keep_every_steps", keep_every_steps, {0}, "checkpoints of multiples of it stay too; 0: none");
    v("keep_weights_every_steps", keep_weights_every_steps, {0},
      "of checkpoints of multiples of it that do not stay, the weights are copied to run.folder/weights; 0: none");
    v("keep_best", keep_best, {0}, "checkpoints with the best keep_best_metric stay too, the older of equal ones");
    v("keep_best_metric", keep_best_metric,
      "metric of an evaluation, eval/NAME/loss or, of a task, eval/NAME/acc and so on; checkpoints of steps that were "
      "not evaluated are not among the best");
    v("keep_best_mode", keep_best_mode, "which of its values are the best");
    v("async", async,
      "write checkpoints beside training, from a copy of the trained state in host memory; false: training waits");
    v("on_damage", on_damage,
      "fall_back: a damaged checkpoint of the run is set aside, and the newest one that is not damaged is taken; stop: "
      "it ends the run");
    v("resume", resume,
      "checkpoint that a run resumes from: newest, or a STEP, to go back to: later checkpoints are renamed to "
      "NAME.abandoned-1; a run that has gone back to STEP then resumes from its newest");
    v("min_free", min_free, at_least(0),
      "GiB free below run.folder; with less, the run saves once more and ends with exit code 4; 0: not looked at");
    v("after_save", after_save,
      "shell command that sends a checkpoint elsewhere, run beside training on the host of rank 0 after each save, "
      "with "
      "OLMOE_CHECKPOINT (the step's folder), OLMOE_STEP and OLMOE_RUN_FOLDER in its environment; empty: none");
    v("verify_copy", verify_copy,
      "shell command that looks at what after_save sent, run after it in the same way; exit code 0: the copy is good");
    v("delete_local", delete_local,
      "when a checkpoint that is not kept is removed. at_once: after the next save, unless it waits to be sent or is "
      "being sent; after_verified: not before verify_copy ended with 0 for it");
    v("after_save_tries", after_save_tries, {1},
      "tries of after_save and verify_copy for each step, with pauses of 1 s, 2 s, 4 s, ... 5 min between them");
    v("after_save_limit_s", after_save_limit_s, {1}, "seconds after which one such command is ended");
    v("after_save_wait_s", after_save_wait_s, {0},
      "seconds that a run waits at its end for checkpoints that are not sent yet; the next start sends what is left");
  }
};

/// The step that CheckpointConfig::resume names; none for the newest one. Throws Error for another word.
std::optional<int64_t> resume_step(const CheckpointConfig& config);

/// Problems of the section, one sentence each: intervals out of order, a metric that no evaluation has.
std::vector<std::string> validate(const CheckpointConfig& config, const EvaluationConfig& evaluation);

}  // namespace olmoe
