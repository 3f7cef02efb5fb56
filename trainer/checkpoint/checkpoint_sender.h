#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "core/process/child_process.h"
#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/send_records.h"
#include "trainer/config/checkpoint_config.h"

namespace olmoe {

/// Sends checkpoints elsewhere by the user's commands (checkpoint.after_save, checkpoint.verify_copy), beside training:
/// on rank 0, on a thread that makes no collective calls, one command at a time, the oldest step first. A command that
/// fails, hangs or cannot be started is tried again, and never ends the run. What is known of each step is kept in
/// `run_folder`/after_save.json; what the commands print, in `run_folder`/after_save.log. Without checkpoint.after_save
/// nothing is done.
class CheckpointSender {
 public:
  using Seconds = std::chrono::duration<double>;
  struct Times {
    Seconds first_pause{1}, longest_pause{300};  ///< between two tries of a step; it doubles
    Seconds grace{5};                            ///< for a command that is asked to end
  };

  /// Does nothing yet. `world` must outlive this object.
  CheckpointSender(const std::string& run_folder, const CheckpointConfig& config, Communicator& world, Times times);
  CheckpointSender(const std::string& run_folder, const CheckpointConfig& config, Communicator& world)
      : CheckpointSender(run_folder, config, world, Times()) {}
  /// Ends the command that runs, and names the steps that are not sent.
  ~CheckpointSender();

  bool sends() const { return !config_.after_save.empty(); }
  /// To be called once no other run can be in the folder, which resumes after `step`. Ends a command that a killed run
  /// left on this host, and sends all complete checkpoints of the folder that were not sent. Throws ConfigError where
  /// no thread can be started. Collective over world.
  void start(int64_t step);
  /// Queues a step that was just committed. On rank 0, any thread; does not throw.
  void add(int64_t step);
  /// Whether a step must stay on the local disk: it waits to be sent, is being sent, or checkpoint.delete_local wants
  /// it verified first. On rank 0, any thread.
  bool in_use(int64_t step) const;
  /// Waits until nothing is left to send, for checkpoint.after_save_wait_s at most, and says so. False where `leave`,
  /// asked of every rank, ended the wait early. Collective over world.
  bool finish(const std::function<bool()>& leave);

 private:
  void open(int64_t step);
  void forget_later_than(int64_t step);
  void work();
  void send(int64_t step);
  std::string attempt(int64_t step, int64_t tries);
  ProcessEnd run(const std::string& key, const std::string& text, int64_t step, int64_t tries);
  void leave_queue(int64_t step, const std::string& hash, SendState state);
  std::string manifest_hash(int64_t step) const;
  void change(const std::function<void()>& work);
  void write();
  std::string step_folder(int64_t step) const;
  std::string waiting_steps() const;
  std::set<int64_t> given_up() const;

  const std::string run_folder_;  // from the root on: a command may change its folder
  const CheckpointConfig config_;
  Communicator& world_;
  const Times times_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  SendRecords records_;
  std::set<int64_t> waiting_;  // steps; the one that is being sent too
  bool writes_fail_ = false;
  std::atomic<bool> ended_ = false;
  std::thread thread_;  // last: it uses all others
};

}  // namespace olmoe
