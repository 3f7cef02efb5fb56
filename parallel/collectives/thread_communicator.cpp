#include "parallel/collectives/thread_communicator.h"

#include <ATen/Parallel.h>
#include <c10/core/AutogradState.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"
#include "parallel/collectives/byte_communicator.h"

namespace olmoe {
namespace {

/// Where the threads of one group synchronize, and publish what they send.
struct ThreadGroup {
  explicit ThreadGroup(int members) : size(members), send(members) {}
  const int size;
  std::vector<std::span<const std::span<const std::byte>>> send;  ///< by sender, by receiver
  int arrived = 0;
  int64_t round = 0;
};

/// All ranks of one run_ranks call. All groups share one lock, so that a failure reaches a rank in whatever group it
/// waits, and a deadlock is detected.
class ThreadJob {
 public:
  explicit ThreadJob(int ranks) : running_(ranks) {}

  ThreadGroup& group(int64_t id) {
    std::lock_guard lock(mutex_);
    return groups_.at(id);
  }

  int64_t add_group(int members) {
    std::lock_guard lock(mutex_);
    groups_.emplace_back(members);
    return std::ssize(groups_) - 1;
  }

  /// Waits for every member of `group` to call it. Throws Error if a rank of the job fails before that.
  void meet(ThreadGroup& group) {
    std::unique_lock lock(mutex_);
    throw_if_failed();
    const int64_t round = group.round;
    if (arrive(group)) return;
    changed_.wait(lock, [&] { return group.round != round || failure_; });
    if (group.round == round) throw_if_failed();
  }

  /// Waits for every member to call it, even after a failure: members read each other's memory, and none of them can
  /// fail before this call.
  void part(ThreadGroup& group) {
    std::unique_lock lock(mutex_);
    const int64_t round = group.round;
    if (!arrive(group)) changed_.wait(lock, [&] { return group.round != round; });
  }

  void fail(std::exception_ptr failure, const std::string& reason) {
    std::lock_guard lock(mutex_);
    fail_locked(std::move(failure), reason);
  }

  /// A rank ended, with or without an error.
  void leave() {
    std::lock_guard lock(mutex_);
    --running_;
    fail_if_stuck();
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  /// True for the last member to arrive, which releases the others.
  bool arrive(ThreadGroup& group) {
    ++waiting_;
    if (++group.arrived < group.size) {
      fail_if_stuck();
      return false;
    }
    waiting_ -= group.size;
    group.arrived = 0;
    ++group.round;
    changed_.notify_all();
    return true;
  }

  void fail_if_stuck() {
    if (running_ == 0 || waiting_ < running_) return;
    const std::string reason =
        fmt::format("all {} running ranks wait for a call that no rank will make: they made different calls", running_);
    fail_locked(std::make_exception_ptr(Error(reason)), reason);
  }

  void fail_locked(std::exception_ptr failure, const std::string& reason) {
    if (failure_) return;
    failure_ = std::move(failure);
    reason_ = reason;
    changed_.notify_all();
  }

  void throw_if_failed() const {
    if (failure_) throw Error("another rank failed: " + reason_);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ThreadGroup> groups_;  // a deque: members hold references
  std::exception_ptr failure_;
  std::string reason_;
  int running_;
  int waiting_ = 0;
};

class ThreadCommunicator final : public ByteCommunicator {
 public:
  ThreadCommunicator(ThreadJob& job, ThreadGroup& group, std::string name, int rank)
      : ByteCommunicator(std::move(name), rank, group.size), job_(job), group_(group) {}

  void abort(int exit_code) override {
    const std::string reason = fmt::format("{}: rank {} aborted the job with exit code {}", name(), rank(), exit_code);
    job_.fail(std::make_exception_ptr(Error(reason, static_cast<ExitCode>(exit_code))), reason);
  }

 private:
  void exchange(std::span<const Bytes> recv, std::span<const ConstBytes> send) override {
    group_.send[rank()] = send;
    job_.meet(group_);
    for (int r = 0; r < size(); ++r) {
      const ConstBytes bytes = group_.send[r][rank()];
      // memcpy, not at::copy_: ThreadSanitizer must see it.
      if (r != rank() && !bytes.empty()) std::memcpy(recv[r].data(), bytes.data(), bytes.size());
    }
    job_.part(group_);
  }

  std::unique_ptr<Communicator> make_part(const Part& part, std::string name) override {
    const int64_t id = part.rank == 0 ? job_.add_group(static_cast<int>(part.members.size())) : -1;
    const auto ids = gather_values(Collective::split, {id});
    return std::make_unique<ThreadCommunicator>(job_, job_.group(ids[part.members[0]][0]), std::move(name), part.rank);
  }

  ThreadJob& job_;
  ThreadGroup& group_;
};

std::string what_of(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

void run_rank(ThreadJob& job, int rank, const std::function<void(Communicator&)>& body) {
  // Autograd has one worker thread for each device; ranks that wait for each other in backward would block it.
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  at::set_num_threads(1);
  try {
    ThreadCommunicator world(job, job.group(0), "world", rank);
    body(world);
  } catch (...) {
    job.fail(std::current_exception(), fmt::format("rank {}: {}", rank, what_of(std::current_exception())));
  }
  job.leave();
}

}  // namespace

void run_ranks(int size, const std::function<void(Communicator&)>& body) {
  ENSURE(size >= 1, "run_ranks with {} ranks", size);
  ThreadJob job(size);
  job.add_group(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] { run_rank(job, rank, body); });
  }
  for (std::thread& thread : threads) thread.join();
  job.rethrow();
}

}  // namespace olmoe
