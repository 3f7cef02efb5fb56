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

struct DataLoader::State {
  State(std::shared_ptr<const SequenceSource> from, Plan how, int64_t first_step)
      : source(std::move(from)), plan(std::move(how)) {
    thread = start_thread<std::jthread>("the thread of the data loader",
                                        [this, first_step](std::stop_token stop) { produce(stop, first_step); });
  }

  void produce(std::stop_token stop, int64_t first_step) {
    try {
      for (int64_t step = first_step;; ++step)
        if (!produce_step(stop, step)) return;
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  /// The step after `done` others. False if the loader is being destroyed.
  bool produce_step(const std::stop_token& stop, int64_t done) {
    auto batches = plan.batches;
    batches.global_batch = sizes.of_step(done + 1);
    for (int64_t i = 0; i < batches.accumulation_steps(); ++i) {
      const auto [first, count] = batches.sequences_of(plan.rank, i);
      if (!push(make_batch(*source, sizes.until(done) + first, count), stop)) return false;
    }
    return true;
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
  const BatchSizes sizes{plan.batches.global_batch, plan.warmup};
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
  state_ = std::make_unique<State>(std::move(source), std::move(plan), first_step);
}

DataLoader::~DataLoader() = default;

Batch DataLoader::next() { return state_->pop(); }

}  // namespace olmoe
