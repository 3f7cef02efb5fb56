#include "trainer/job/launcher_watch.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/process/threads.h"

namespace olmoe {

LauncherWatch::LauncherWatch(std::function<void(int launcher)> ended, std::chrono::milliseconds period)
    : ended_(std::move(ended)), period_(period), launcher_(::getppid()) {
  thread_ = start_thread<std::thread>("the thread that watches the launcher", [this] { watch(); });
}

LauncherWatch::~LauncherWatch() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LauncherWatch::watch() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, period_, [&] { return over_; }))
    if (::getppid() != launcher_) return ended_(launcher_);
}

bool has_launcher(const Environment& environment) {
  constexpr std::array kOfLaunchers{"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",          "PMI_RANK", "MV2_COMM_WORLD_SIZE",
                                    "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID"};
  return std::ranges::any_of(kOfLaunchers, [&](const char* name) { return environment(name) != nullptr; });
}

}  // namespace olmoe
