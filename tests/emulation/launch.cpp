#include "emulation/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>

#include "emulation/cuda_language.h"

namespace emulation {

Launch::Launch(std::string kernel, unsigned bound, const dim3& grid, const dim3& threads, size_t shared_bytes,
               cudaStream_t)
    : kernel_(std::move(kernel)), grid_(grid), threads_(threads), shared_bytes_(shared_bytes) {
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  if (uint64_t{grid.x} * grid.y * grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    refuse(fmt::format("a grid of {} x {} x {} blocks", grid.x, grid.y, grid.z));
  if (count == 0 || count > 1024 || threads.z > 64)
    refuse(fmt::format("a block of {} x {} x {} threads", threads.x, threads.y, threads.z));
  if (count > bound) refuse(fmt::format("{} threads, but its launch bound is {}", count, bound));
  if (shared_bytes > SharedMemory::kMaxBytes)
    refuse(fmt::format("{} bytes of shared memory, more than {}", shared_bytes, SharedMemory::kMaxBytes));
}

int64_t& Launch::counter() {
  static int64_t launches = 0;
  return launches;
}

void Launch::refuse(const std::string& why) const { throw Fault(fmt::format("{}: refused: {}", kernel_, why)); }

void Launch::check_pointer(const void* argument) const {
  if (argument != nullptr && !GlobalMemory::of_gpu().holds(argument, 0))
    refuse("an argument points to memory of the host");
}

void Launch::run_blocks(const std::function<void()>& body) const {
  ++counter();
  const GlobalMemory::Access access;
  Block& block = Block::current();
  std::vector<uint32_t> order(size_t{grid_.x} * grid_.y * grid_.z);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), block.random());
  gridDim = grid_;
  blockDim = threads_;
  SharedMemory& shared = SharedMemory::of_block();
  shared.allocate_dynamic(shared_bytes_);
  for (const uint32_t index : order) {
    blockIdx = {index % grid_.x, index / grid_.x % grid_.y, index / grid_.x / grid_.y};
    shared.fill_with_nan();
    try {
      block.run(threads_, body);
    } catch (const Fault& fault) {
      throw Fault(fmt::format("{}: {}", kernel_, fault.what()));
    }
  }
}

void fail_at(const Where& where, const std::string& message) {
  Block::current().fail(fmt::format("{}:{}: {}", where.file_name(), where.line(), message));
}

void check_global_store(const void* address, size_t bytes, const Where& where) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fail_at(where, fmt::format("a store of {} bytes is not aligned", bytes));
  if (GlobalMemory::of_gpu().holds(address, bytes)) return;
  if (SharedMemory::of_block().holds(address)) fail_at(where, "a global store to shared memory");
  fail_at(where, "a global store beside global memory");
}

}  // namespace emulation
