#include "core/process/threads.h"

#include <latch>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/process/process_limits.h"

namespace olmoe {

void throw_no_thread(const std::string& what, const std::string& reason) {
  throw ConfigError(
      fmt::format("cannot start {}: {}. Limits: {}. Raise the one that is too low, or lower run.threads "
                  "or the ranks of this machine",
                  what, reason, describe_thread_limits()));
}

void check_threads(int count) {
  std::latch all_tried(1);
  std::vector<std::jthread> threads;
  try {
    for (int i = 0; i < count; ++i)
      threads.push_back(start_thread<std::jthread>(fmt::format("thread {} of the {} that a rank needs", i + 1, count),
                                                   [&] { all_tried.wait(); }));
  } catch (...) {
    all_tried.count_down();
    throw;
  }
  all_tried.count_down();
}

}  // namespace olmoe
