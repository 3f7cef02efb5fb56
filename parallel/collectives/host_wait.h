#pragma once
#include <chrono>
#include <thread>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Makes the host wait until done() is true. There is no timeout: how long other ranks take to make a call is not known
/// here. Polls `ranks` meanwhile, and throws Error if another rank died.
template <class Done>
void wait_until(const Done& done, Communicator& ranks) {
  constexpr int kYields = 10'000;      // some milliseconds: most calls take less than a sleep
  constexpr int kWaitsPerPoll = 1000;  // a tenth of a second: a poll may be a message to a server
  for (int yields = 0; yields < kYields; ++yields) {
    if (done()) return;
    std::this_thread::yield();
  }
  for (int waits = 1; !done(); ++waits) {
    if (waits % kWaitsPerPoll == 0) ranks.poll();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace olmoe
