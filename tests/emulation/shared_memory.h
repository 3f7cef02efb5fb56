// The shared memory of the running block. Each variable is an allocation of its own, so that AddressSanitizer finds
// accesses outside of it. rewrite_launches.py turns declarations of `__shared__` into calls of the two functions below.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

namespace emulation {

class SharedMemory {
 public:
  /// The limit without cudaFuncSetAttribute, which is not emulated.
  static constexpr size_t kMaxBytes = 48 << 10;
  static SharedMemory& of_block();

  /// For the blocks of the next launch.
  void allocate_dynamic(size_t bytes);
  void* dynamic() { return dynamic_.data.get(); }
  /// A variable of all blocks of one kernel.
  void* add(size_t bytes);
  /// Fills all of it with NaN, which as an integer is no valid row or count, so that reads of uninitialised memory
  /// show.
  void fill_with_nan();
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
