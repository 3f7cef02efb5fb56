#pragma once
#include <span>
#include <thread>

#include "parallel/collectives/communicator.h"

/// What this program does with signals: one table, which docs/failures.md prints. A signal belongs to the process, so
/// this is the one place with process-wide state.
namespace olmoe::preemption {

enum class Answer {
  save_and_leave,  ///< the step that is being trained is finished and saved; exit code 75
  go_on,           ///< what it warns of is met as an error of the call that failed
};
struct Rule {
  int signal;
  const char* name;
  Answer answer;
};
/// All signals that are not left to the system, whose default ends the process at once or stops it until SIGCONT.
std::span<const Rule> rules();
/// "SIGTERM"; of other signals "signal 3".
std::string name_of(int signal);

/// What the run does, which is what a signal's answer depends on.
enum class Moment { joining, starting, training, saving, evaluating, ended };
void enter(Moment moment);

/// Applies the table from now on. Until a Listener answers (the ranks may not have met, so none can tell the others), a
/// signal that asks to save and leave ends this process at once with exit code 75. Call before the ranks meet.
void install_handlers();

/// The first signal that asked this process to save and leave, or 0.
int requested();

/// Installs the handlers, and says in the log at once which signal came and what happens next (rank 0; in the whole
/// job, ranks agree after the step). While the run starts there is nothing to save: the job ends with 75. A
/// second SIGINT, at least one second after the first, ends this process as SIGINT does by default. When this goes,
/// signals are noted and no more: the run has ended and is being taken down. One at a time.
class Listener {
 public:
  explicit Listener(Communicator& world);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

 private:
  void listen();
  void answer(int signal, Moment moment);

  Communicator& world_;
  std::thread thread_;
};

}  // namespace olmoe::preemption
