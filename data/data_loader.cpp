#include "data/data_loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/process/threads.h"

namespace olmoe {
namespace {

Batch micro_batch(const SequenceSource& source, const DataLoader::Plan& plan, int64_t step, int64_t accumulation_step) {
  const auto [first, count] = plan.batches.sequences_of(plan.rank, accumulation_step);
  return make_batch(source, step * plan.batches.global_batch + first, count);
}

}  // namespace

struct DataLoader::State {
  State(std::shared_ptr<const SequenceSource> from, Plan how, int64_t first_step) : source(std::move(from)), plan(how) {
    thread = start_thread<std::jthread>("the thread of the data loader",
                                        [this, first_step](std::stop_token stop) { produce(stop, first_step); });
  }

  void produce(std::stop_token stop, int64_t first_step) {
    try {
      for (int64_t step = first_step;; ++step)
        for (int64_t i = 0; i < plan.batches.accumulation_steps(); ++i)
          if (!push(micro_batch(*source, plan, step, i), stop)) return;
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  /// Waits for space in the queue. False if the loader is being destroyed.
  bool push(Batch batch, std::stop_token stop) {
    std::unique_lock lock(mutex);
    const auto has_space = [this] { return std::ssize(ready) < plan.prefetch; };
    if (!changed.wait(lock, stop, has_space)) return false;
    ready.push_back(std::move(batch));
    changed.notify_all();
    return true;
  }

  /// Batches that were prepared before the thread failed are returned first, in order.
  Batch pop() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !ready.empty() || error; });
    if (ready.empty()) std::rethrow_exception(error);
    Batch batch = std::move(ready.front());
    ready.pop_front();
    changed.notify_all();
    return batch;
  }

  const std::shared_ptr<const SequenceSource> source;
  const Plan plan;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Batch> ready;
  std::exception_ptr error;
  std::jthread thread;  // last: stopped and joined before what it uses is destroyed
};

DataLoader::DataLoader(std::shared_ptr<const SequenceSource> source, Plan plan, int64_t first_step) {
  const auto& batches = plan.batches;
  ENSURE(batches.global_batch >= 1 && batches.micro_batch >= 1, "global batch {} and micro-batch {} in sequences",
         batches.global_batch, batches.micro_batch);
  ENSURE(plan.rank >= 0 && plan.rank < batches.ranks, "rank {} of {}", plan.rank, batches.ranks);
  ENSURE(plan.prefetch >= 1, "the loader must prepare at least one micro-batch ahead, not {}", plan.prefetch);
  ENSURE(first_step >= 0, "first step {}", first_step);
  state_ = std::make_unique<State>(std::move(source), plan, first_step);
}

DataLoader::~DataLoader() = default;

Batch DataLoader::next() { return state_->pop(); }

}  // namespace olmoe
