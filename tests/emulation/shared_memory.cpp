#include "emulation/shared_memory.h"

#include <algorithm>
#include <cstring>

namespace emulation {

SharedMemory& SharedMemory::of_block() {
  static SharedMemory memory;
  return memory;
}

void SharedMemory::allocate_dynamic(size_t bytes) { dynamic_ = {std::make_unique<char[]>(bytes), bytes}; }

void* SharedMemory::add(size_t bytes) {
  const Piece& added = variables_.emplace_back(Piece{std::make_unique<char[]>(bytes), bytes});
  std::memset(added.data.get(), 0xff, bytes);
  return added.data.get();
}

void SharedMemory::fill_with_nan() {
  std::memset(dynamic_.data.get(), 0xff, dynamic_.bytes);
  for (const Piece& variable : variables_) std::memset(variable.data.get(), 0xff, variable.bytes);
}

bool SharedMemory::holds(const void* address) const {
  const auto* const byte = static_cast<const char*>(address);
  const auto within = [&](const Piece& piece) {
    return byte >= piece.data.get() && byte < piece.data.get() + piece.bytes;
  };
  return within(dynamic_) || std::any_of(variables_.begin(), variables_.end(), within);
}

}  // namespace emulation
