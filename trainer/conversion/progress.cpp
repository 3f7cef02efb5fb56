#include "trainer/conversion/progress.h"

#include <pthread.h>

#include <cstdio>

#include "core/text.h"

namespace olmoe {

ProgressLine::~ProgressLine() {
  if (printed_) std::fputc('\n', stderr);
}

void ProgressLine::update(int64_t done_bytes, int64_t all_bytes) {
  constexpr double kInterval_s = 0.2;
  const double now_s = watch_.elapsed_s();
  if (!shown_ || (done_bytes < all_bytes && now_s - last_s_ < kInterval_s)) return;
  last_s_ = now_s;
  printed_ = true;
  const double share = all_bytes > 0 ? static_cast<double>(done_bytes) / static_cast<double>(all_bytes) : 1.0;
  const auto rate = static_cast<int64_t>(static_cast<double>(done_bytes) / std::max(now_s, 1e-3));
  fmt::print(stderr, "\r{}: {} of {}, {:.0f} %, {}/s  ", work_, describe_size(done_bytes), describe_size(all_bytes),
             100 * share, describe_size(rate));
  std::fflush(stderr);
}

HeldSignals::HeldSignals() {
  ::sigemptyset(&held_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&held_, signal);
  ::pthread_sigmask(SIG_BLOCK, &held_, &before_);
}

HeldSignals::~HeldSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

void HeldSignals::check() const {
  sigset_t pending;
  ::sigpending(&pending);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    if (::sigismember(&pending, signal) == 1 && ::sigismember(&before_, signal) == 0)
      throw Error("interrupted: nothing was written");
}

}  // namespace olmoe
