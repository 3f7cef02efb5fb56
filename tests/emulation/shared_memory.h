// The shared memory of the block that runs. Each variable is an allocation of its own, where AddressSanitizer sees what
// is beside it. rewrite_launches.py turns declarations of `__shared__` into calls of the two functions below.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

namespace emulation {

class SharedMemory {
 public:
  /// What a block may have without asking for more (cudaFuncSetAttribute, which the emulation does not know).
  static constexpr size_t kMaxBytes = 48 << 10;
  static SharedMemory& of_block();

  /// For the blocks of the next launch.
  void allocate_dynamic(size_t bytes);
  void* dynamic() { return dynamic_.data.get(); }
  /// A variable of all blocks of one kernel.
  void* add(size_t bytes);
  /// What a block has not written itself is NaN, or no number that would pass for a row or a count.
  void forget();
  bool holds(const void* address) const;

 private:
  struct Piece {
    std::unique_ptr<char[]> data;
    size_t bytes = 0;
  };
  Piece dynamic_;
  std::vector<Piece> variables_;
};

/// `extern __shared__ T x[];`
template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(SharedMemory::of_block().dynamic());
}
/// `__shared__ T x;` of an array T. Each declaration, of each instance of a template, has a Tag of its own.
template <typename T, typename Tag>
T& shared(const Tag&) {
  static T& memory = *static_cast<T*>(SharedMemory::of_block().add(sizeof(T)));
  return memory;
}

}  // namespace emulation
