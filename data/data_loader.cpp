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

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The micro-batch of this rank in round `round` of step `step`; beyond the last one an empty one.
Batch micro_batch(const InstanceSource& source, const DataLoader::Plan& plan, int64_t step, int64_t round) {
  const int64_t index = round * plan.world_size + plan.rank;
  const int64_t first = std::min(index * plan.micro_batch, plan.global_batch);
  const int64_t count = std::min(plan.micro_batch, plan.global_batch - first);
  return make_batch(source, step * plan.global_batch + first, count);
}

}  // namespace

int64_t DataLoader::Plan::rounds() const { return ceil_div(ceil_div(global_batch, micro_batch), world_size); }

struct DataLoader::State {
  State(std::shared_ptr<const InstanceSource> from, Plan how, int64_t first_step) : source(std::move(from)), plan(how) {
    thread = start_thread<std::jthread>("the thread of the data loader",
                                        [this, first_step](std::stop_token stop) { produce(stop, first_step); });
  }

  void produce(std::stop_token stop, int64_t first_step) {
    try {
      for (int64_t step = first_step;; ++step)
        for (int64_t round = 0; round < plan.rounds(); ++round)
          if (!push(micro_batch(*source, plan, step, round), stop)) return;
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  /// Waits for room. False once the loader is being destroyed.
  bool push(Batch batch, std::stop_token stop) {
    std::unique_lock lock(mutex);
    const auto has_room = [this] { return std::ssize(ready) < plan.prefetch; };
    if (!changed.wait(lock, stop, has_room)) return false;
    ready.push_back(std::move(batch));
    changed.notify_all();
    return true;
  }

  /// What was prepared before the thread failed is still handed out, in order.
  Batch pop() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !ready.empty() || error; });
    if (ready.empty()) std::rethrow_exception(error);
    Batch batch = std::move(ready.front());
    ready.pop_front();
    changed.notify_all();
    return batch;
  }

  const std::shared_ptr<const InstanceSource> source;
  const Plan plan;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Batch> ready;
  std::exception_ptr error;
  std::jthread thread;  // last: stopped and joined before anything it uses goes away
};

DataLoader::DataLoader(std::shared_ptr<const InstanceSource> source, Plan plan, int64_t first_step) {
  ENSURE(plan.global_batch >= 1 && plan.micro_batch >= 1, "global batch {} and micro-batch {} in sequences",
         plan.global_batch, plan.micro_batch);
  ENSURE(plan.rank >= 0 && plan.rank < plan.world_size, "rank {} of {}", plan.rank, plan.world_size);
  ENSURE(plan.prefetch >= 1, "the loader must prepare at least one micro-batch ahead, not {}", plan.prefetch);
  ENSURE(first_step >= 0, "first step {}", first_step);
  state_ = std::make_unique<State>(std::move(source), plan, first_step);
}

DataLoader::~DataLoader() = default;

Batch DataLoader::next() { return state_->pop(); }

}  // namespace olmoe
