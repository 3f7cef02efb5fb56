#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "parallel/collectives/rendezvous.h"

namespace olmoe {

/// Notices that the process which started this one has ended: Linux then gives this process another parent. A rank
/// whose launcher died would wait for the others for ever, or train on where nobody can stop it.
class LauncherWatch {
 public:
  /// Looks every `period`, from now on, and calls `ended` once, on a thread of its own.
  explicit LauncherWatch(std::function<void(int launcher)> ended,
                         std::chrono::milliseconds period = std::chrono::seconds(1));
  ~LauncherWatch();
  LauncherWatch(const LauncherWatch&) = delete;
  LauncherWatch& operator=(const LauncherWatch&) = delete;

 private:
  void watch();

  std::function<void(int launcher)> ended_;
  std::chrono::milliseconds period_;
  int launcher_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;  // last: it uses all others
};

/// Whether mpirun, srun or torchrun started this process. One that a shell started may outlive it.
bool has_launcher(const Environment& environment);

}  // namespace olmoe
