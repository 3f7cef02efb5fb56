// One block of a grid. Its threads are fibers of one host thread, and run one at a time, each until it waits for others
// or returns. The next one is drawn at random, so that a missing barrier gives results that depend on the draw.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulation/fiber.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned columns = 1, unsigned rows = 1, unsigned layers = 1) : x(columns), y(rows), z(layers) {}
};

namespace emulation {

/// An error that a GPU would refuse, hang on or compute wrongly.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Where = std::source_location;
constexpr unsigned kLanes = 32;

/// The value of each lane in an exchange, and the lanes that took part.
struct LaneValues {
  std::array<uint64_t, kLanes> of_lane{};
  uint32_t lanes = 0;
};

class Block {
 public:
  /// The running block, or the next one.
  static Block& current();

  /// Runs `body` on each thread of a block. Throws Fault.
  void run(const dim3& threads, const std::function<void()>& body);
  std::mt19937& random() { return random_; }

  // For a thread of the block. Threads that have returned are not waited for.

  /// Waits for all threads of the block.
  void sync_threads(const Where& where);
  /// Waits for the lanes of `mask`, which must all pass the same mask and place. The reference is valid until the next
  /// exchange.
  const LaneValues& exchange(uint32_t mask, uint64_t value, const Where& where);
  unsigned lane() const { return running_ % kLanes; }
  /// Ends the launch with a Fault.
  [[noreturn]] void fail(const std::string& message);

 private:
  struct Warp {
    uint32_t mask = 0, arrived = 0, returned = 0;  ///< `returned`: or never there
    Where where;
    std::array<uint64_t, kLanes> given{};
    LaneValues shown;
  };

  Block();
  static void enter();
  void resume(unsigned thread);
  void leave();
  void wake(unsigned thread);
  unsigned draw();
  bool open_barrier();
  bool open_meeting(unsigned warp);
  std::string describe_deadlock() const;

  std::mt19937 random_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<unsigned> ready_, at_barrier_;
  Where barrier_;
  dim3 threads_;
  const std::function<void()>* body_ = nullptr;
  unsigned running_ = 0, left_ = 0, policy_ = 0;
  std::string fault_;
};

}  // namespace emulation
