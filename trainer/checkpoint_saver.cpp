#include "trainer/checkpoint_saver.h"

#include "core/log.h"
#include "parallel/agreement.h"
#include "trainer/config/save_cadence.h"
#include "trainer/job/preemption.h"

namespace olmoe {

CheckpointSaver::CheckpointSaver(Checkpointer& checkpointer, const CheckpointConfig& config, Source source,
                                 int64_t saved_step)
    : checkpointer_(checkpointer), async_(config.async), source_(std::move(source)), saved_step_(saved_step) {
  if (saves_async(config)) checkpointer_.reserve_copy(source_.state());
}

void CheckpointSaver::start(int64_t step, Checkpointer::Mode mode) {
  watch_.restart();
  checkpointer_.begin_save(source_.manifest(step), source_.state(), mode);
  step_ = step;
  confirmed_ = false;
  waited_s_ = watch_.elapsed_s();
}

void CheckpointSaver::begin(int64_t step) {
  if (saved_step_ == step) return;
  preemption::enter(preemption::Moment::saving);
  try {
    if (checkpointer_.saving()) {
      warn(fmt::format("step {} is due to be saved, and step {} is not saved yet: waiting for it", step, step_));
      commit();
    }
  } catch (const CheckpointError& error) {
    failed(error);
  }
  try {
    if (async_) return start(step, Checkpointer::Mode::async);
    source_.ensure_usable(step);
    start(step, Checkpointer::Mode::wait);
    confirmed_ = true;
    commit();
  } catch (const CheckpointError& error) {
    failed(error);
  }
}

void CheckpointSaver::save_now(int64_t step) {
  if (saved_step_ == step) return;
  preemption::enter(preemption::Moment::saving);
  if (checkpointer_.saving() && step_ != step) {
    try {
      commit();
    } catch (const CheckpointError& error) {
      warn(error.what());
    }
  }
  if (!checkpointer_.saving()) {
    source_.ensure_usable(step);
    start(step, Checkpointer::Mode::wait);
    confirmed_ = true;
  }
  commit();
}

void CheckpointSaver::before_update() {
  if (!checkpointer_.saving()) return;
  const Stopwatch watch;
  checkpointer_.wait_until_copied();
  waited_s_ += watch.elapsed_s();
}

void CheckpointSaver::after_step() {
  if (!checkpointer_.saving()) return;
  confirmed_ = true;
  const Stopwatch watch;
  try {
    const bool done = checkpointer_.advance();
    waited_s_ += watch.elapsed_s();
    if (done) committed();
  } catch (const CheckpointError& error) {
    failed(error);
  }
}

void CheckpointSaver::finish() {
  if (!checkpointer_.saving()) return;
  preemption::enter(preemption::Moment::saving);
  commit();
}

void CheckpointSaver::settle() {
  try {
    finish();
  } catch (const Error& error) {
    if (!is_agreed(error) && error.code() != ExitCode::non_finite) throw;  // the ranks are no longer together
    warn(fmt::format("step {} is not saved: {}", step_, error.what()));
    if (checkpointer_.saving()) checkpointer_.abandon();
  }
}

/// Waits for the save in flight.
void CheckpointSaver::commit() {
  const Stopwatch watch;
  if (!confirmed_) source_.ensure_usable(step_);
  checkpointer_.commit();
  waited_s_ += watch.elapsed_s();
  committed();
}

void CheckpointSaver::committed() {
  saved_step_ = step_;
  failures_in_a_row_ = 0;
  log::info("saved {} in {:.2f} s, {:.2f} s of them waited for", checkpointer_.step_folder(step_), watch_.elapsed_s(),
            waited_s_);
}

void CheckpointSaver::failed(const Error& error) {
  ++failures_;
  if (++failures_in_a_row_ == kMostFailures)
    throw CheckpointError(fmt::format("{}. It is failure {} in a row, so the run ends", error.what(), kMostFailures));
  warn(fmt::format("{}. Training goes on, and saves again when the next checkpoint is due (failure {} of {} in a row)",
                   error.what(), failures_in_a_row_, kMostFailures));
}

/// Info lines are those of rank 0 already.
void CheckpointSaver::warn(const std::string& text) const {
  if (checkpointer_.speaks()) log::warn("{}", text);
}

}  // namespace olmoe
