#pragma once
#include <span>
#include <thread>

#include "parallel/collectives/communicator.h"

/// How this program handles signals: one table, printed in docs/failures.md. Signals belong to the process, so this is
/// the one place with process-wide state.
namespace olmoe::preemption {

enum class Answer {
  save_and_leave,  ///< finish and save the current step; exit code 75
  ignore,          ///< the call that failed returns an error instead
};
struct Rule {
  int signal;
  const char* name;
  Answer answer;
};
/// All handled signals. Others have the system's default, which ends the process at once or stops it until SIGCONT.
std::span<const Rule> rules();
/// "SIGTERM"; of other signals "signal 3".
std::string name_of(int signal);

/// What the run is doing, on which the answer to a signal depends.
enum class Moment { starting, training, saving, evaluating, sending, ended };
void enter(Moment moment);

/// The first signal that asked this process to save and leave, or 0.
int requested();

/// Installs the handlers, and logs each signal at once with what happens next; the ranks agree on it after the step.
/// While the run starts there is nothing to save: the job ends with exit code 75. A second SIGINT, at least one second
/// after the first, ends this process as SIGINT does by default. After the destructor signals are noted without an
/// answer: the run has ended. One object at a time.
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
