#include "emulation/block.h"

#include <fmt/format.h>

#include <cstdlib>
#include <utility>

#include "emulation/cuda_language.h"

namespace emulation {
namespace {

std::string name_of(const Where& where) { return fmt::format("{}:{}", where.file_name(), where.line()); }
bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && std::string_view(a.file_name()) == b.file_name();
}

}  // namespace

Block& Block::current() {
  static Block block;
  return block;
}

Block::Block() {
  const char* const seed = std::getenv("OLMOE_EMULATION_SEED");
  random_.seed(seed != nullptr ? static_cast<unsigned>(std::atoi(seed)) : 1);
}

void Block::run(const dim3& threads, const std::function<void()>& body) {
  const unsigned count = threads.x * threads.y * threads.z;
  threads_ = threads;
  body_ = &body;
  left_ = count;
  policy_ = random_() % 3;
  ready_.clear();
  at_barrier_.clear();
  warps_.assign((count + kLanes - 1) / kLanes, Warp{});
  if (count % kLanes != 0) warps_.back().returned = ~uint32_t{0} << count % kLanes;
  if (fibers_.size() < count) fibers_.resize(count);
  for (unsigned thread = 0; thread < count; ++thread) {
    fibers_[thread].start(&Block::enter);
    ready_.push_back(thread);
  }
  while (!ready_.empty() && fault_.empty()) resume(draw());
  if (fault_.empty() && left_ > 0) fault_ = describe_deadlock();
  if (fault_.empty()) return;
  for (Fiber& fiber : fibers_) fiber.abandon();
  throw Fault(std::exchange(fault_, {}));
}

void Block::enter() {
  Block& block = current();
  block.fibers_[block.running_].entered();
  (*block.body_)();
  block.leave();
}

void Block::resume(unsigned thread) {
  running_ = thread;
  threadIdx = {thread % threads_.x, thread / threads_.x % threads_.y, thread / threads_.x / threads_.y};
  fibers_[thread].resume();
}

void Block::leave() {
  --left_;
  const unsigned warp = running_ / kLanes;
  warps_[warp].returned |= uint32_t{1} << lane();
  open_barrier();
  open_meeting(warp);
  fibers_[running_].suspend(/*forever=*/true);
}

void Block::fail(const std::string& message) {
  fault_ = message;
  fibers_[running_].suspend();
  std::abort();  // a thread of a failed block is never resumed
}

void Block::wake(unsigned thread) {
  if (thread != running_) ready_.push_back(thread);
}

/// Random; or the one that became ready last, so that a warp runs far ahead; or first.
unsigned Block::draw() {
  const size_t last = ready_.size() - 1, at = policy_ == 0 ? random_() % ready_.size() : policy_ == 1 ? last : 0;
  std::swap(ready_[at], ready_[last]);
  const unsigned thread = ready_.back();
  ready_.pop_back();
  return thread;
}

void Block::sync_threads(const Where& where) {
  if (at_barrier_.empty()) barrier_ = where;
  if (!same_place(barrier_, where))
    fail(fmt::format("threads of a block wait at different barriers: {} and {}", name_of(barrier_), name_of(where)));
  at_barrier_.push_back(running_);
  if (!open_barrier()) fibers_[running_].suspend();
}

bool Block::open_barrier() {
  if (at_barrier_.empty() || at_barrier_.size() < left_) return false;
  for (const unsigned thread : at_barrier_) wake(thread);
  at_barrier_.clear();
  return true;
}

const LaneValues& Block::exchange(uint32_t mask, uint64_t value, const Where& where) {
  const unsigned warp_index = running_ / kLanes;
  Warp& warp = warps_[warp_index];
  if ((mask >> lane() & 1) == 0)
    fail(fmt::format("{}: lane {} is not in its own mask {:08x}", name_of(where), lane(), mask));
  if (warp.arrived == 0) {
    warp.mask = mask;
    warp.where = where;
  }
  if (warp.mask != mask || !same_place(warp.where, where))
    fail(fmt::format("lanes of a warp meet with different masks or at different places: {:08x} at {}, {:08x} at {}",
                     warp.mask, name_of(warp.where), mask, name_of(where)));
  warp.given[lane()] = value;
  warp.arrived |= uint32_t{1} << lane();
  if (!open_meeting(warp_index)) fibers_[running_].suspend();
  return warp.shown;
}

bool Block::open_meeting(unsigned warp_index) {
  Warp& warp = warps_[warp_index];
  if (warp.arrived == 0 || (warp.mask & ~warp.returned & ~warp.arrived) != 0) return false;
  warp.shown = {warp.given, warp.arrived};
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if ((warp.arrived >> lane & 1) != 0) wake(warp_index * kLanes + lane);
  warp.arrived = 0;
  return true;
}

std::string Block::describe_deadlock() const {
  std::string text = fmt::format("deadlock: {} threads have not returned", left_);
  if (!at_barrier_.empty())
    text += fmt::format("; {} wait at the barrier of {}", at_barrier_.size(), name_of(barrier_));
  for (size_t w = 0; w < warps_.size(); ++w)
    if (warps_[w].arrived != 0)
      text += fmt::format("; lanes {:08x} of warp {} wait at {} for lanes {:08x}", warps_[w].arrived, w,
                          name_of(warps_[w].where), warps_[w].mask & ~warps_[w].arrived);
  return text;
}

}  // namespace emulation
