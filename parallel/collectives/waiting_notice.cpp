#include "parallel/collectives/waiting_notice.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "core/log.h"
#include "core/process/threads.h"

namespace olmoe {

void WaitingClock::report(const std::function<std::string(int64_t)>& text) {
  if (std::chrono::steady_clock::now() < next_) return;
  next_ += times_.every;
  log::warn("{}", text(std::chrono::duration_cast<std::chrono::seconds>(waited()).count()));
}

WaitingNotice::WaitingNotice(std::function<std::string(int64_t)> text, NoticeTimes times) {
  thread_ = start_thread<std::jthread>("the thread that logs what this rank waits for",
                                       [text = std::move(text), times](std::stop_token stop) {
                                         constexpr auto kTick = std::chrono::milliseconds(50);
                                         std::mutex mutex;
                                         std::condition_variable_any never;
                                         std::unique_lock lock(mutex);
                                         WaitingClock clock(times);
                                         while (!stop.stop_requested()) {
                                           never.wait_for(lock, stop, kTick, [] { return false; });
                                           if (!stop.stop_requested()) clock.report(text);
                                         }
                                       });
}

}  // namespace olmoe
