#include "trainer/job/preemption.h"

#include <semaphore.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>

#include "core/error.h"
#include "core/log.h"
#include "core/process/threads.h"
#include "trainer/job/environment.h"

namespace olmoe::preemption {
namespace {

constexpr std::array kRules{
    Rule{SIGTERM, "SIGTERM", Answer::save_and_leave}, Rule{SIGINT, "SIGINT", Answer::save_and_leave},
    Rule{SIGHUP, "SIGHUP", Answer::save_and_leave},   Rule{SIGUSR1, "SIGUSR1", Answer::save_and_leave},
    Rule{SIGUSR2, "SIGUSR2", Answer::save_and_leave}, Rule{SIGXCPU, "SIGXCPU", Answer::save_and_leave},
    Rule{SIGPIPE, "SIGPIPE", Answer::ignore},         Rule{SIGXFSZ, "SIGXFSZ", Answer::ignore},
};
constexpr int64_t kSecond_ns = 1'000'000'000;
constexpr auto kPatience = std::chrono::seconds(10);

// Any thread may be the one that handles a signal.
std::atomic<int> first_request = 0;
std::array<std::atomic<int>, kRules.size()> unanswered{};  // for each rule 0, or 1 + the Moment of its signal
std::atomic<int64_t> interrupted_ns = 0;
std::atomic<Moment> now_at = Moment::starting;
std::atomic<bool> ended = false;
sem_t wake;  // for the listener
static_assert(std::atomic<int64_t>::is_always_lock_free && std::atomic<int>::is_always_lock_free &&
              std::atomic<Moment>::is_always_lock_free);

/// True for a second SIGINT from a user, not for the copy that a launcher forwards at once.
bool is_second_interrupt(int signal) {
  if (signal != SIGINT) return false;
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  const int64_t now_ns = time.tv_sec * kSecond_ns + time.tv_nsec;
  int64_t first_ns = 0;
  return !interrupted_ns.compare_exchange_strong(first_ns, now_ns) && now_ns - first_ns >= kSecond_ns;
}

size_t rule_of(int signal) {
  return static_cast<size_t>(std::ranges::find(kRules, signal, &Rule::signal) - kRules.begin());
}

extern "C" void on_signal(int signal) {
  const int error = errno;
  int none = 0;
  first_request.compare_exchange_strong(none, signal);
  unanswered[rule_of(signal)] = 1 + static_cast<int>(now_at.load());
  sem_post(&wake);
  if (is_second_interrupt(signal)) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // delivered when this handler returns
  }
  errno = error;
}

void apply(const Rule& rule) {
  struct sigaction action {
  }, before{};
  sigaction(rule.signal, nullptr, &before);
  if (rule.signal == SIGHUP && before.sa_handler == SIG_IGN) return;  // as nohup sets it: the run outlives its terminal
  action.sa_handler = rule.answer == Answer::save_and_leave ? on_signal : SIG_IGN;
  action.sa_flags = SA_RESTART;  // system calls in progress continue; the step is finished first
  sigaction(rule.signal, &action, nullptr);
}

/// What happens next. Promises no save, which may fail.
const char* next_of(Moment moment) {
  switch (moment) {
    case Moment::starting:
      return "nothing was trained yet, so there is nothing to save; leaving with exit code 75";
    case Moment::training:
      return "this step is finished and saved, then the run leaves with exit code 75";
    case Moment::saving:
      return "the checkpoint that is being written is finished, then the run leaves";
    case Moment::evaluating:
      return "the evaluation stops after this batch, then the run saves and leaves";
    case Moment::sending:
      return "the run does not wait for checkpoints that are not sent yet; the next start sends them";
    case Moment::ended:
      return "the run has ended and leaves by itself";
  }
  return "";
}

}  // namespace

std::span<const Rule> rules() { return kRules; }

std::string name_of(int signal) {
  const size_t rule = rule_of(signal);
  return rule == kRules.size() ? fmt::format("signal {}", signal) : kRules[rule].name;
}

void enter(Moment moment) { now_at = moment; }

int requested() { return first_request; }

Listener::Listener(Communicator& world) : world_(world) {
  ended = false;
  now_at = Moment::starting;
  ENSURE(sem_init(&wake, 0, 0) == 0, "no semaphore for signals: {}", errno);
  thread_ = start_thread<std::thread>("the listener to signals", [this] { listen(); });
  for (const auto& rule : kRules) apply(rule);
  sigset_t all;  // the parent process may have had them blocked
  sigemptyset(&all);
  for (const auto& rule : kRules) sigaddset(&all, rule.signal);
  pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
}

Listener::~Listener() {
  now_at = Moment::ended;
  ended = true;
  sem_post(&wake);
  thread_.join();
}

void Listener::listen() {
  while (true) {
    while (sem_wait(&wake) != 0) continue;  // a handler ran on this thread
    const bool last = ended;                // read first: a signal before the end is in its slot by now
    for (size_t rule = 0; rule < kRules.size(); ++rule)
      if (const int came = unanswered[rule].exchange(0); came != 0)
        answer(kRules[rule].signal, static_cast<Moment>(came - 1));
    if (last) return;
  }
}

void Listener::answer(int signal, Moment moment) {
  const auto text = fmt::format("{}: {}", name_of(signal), next_of(moment));
  if (moment != Moment::starting) return log::info("{}. SIGQUIT, or SIGINT twice, ends it at once", text);
  end_within(kPatience, ExitCode::preempted);
  // One rank logs it for all that have the signal, and ends the job meanwhile.
  if (world_.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  log::warn("{}", text);
  world_.abort(static_cast<int>(ExitCode::preempted));
}

}  // namespace olmoe::preemption
