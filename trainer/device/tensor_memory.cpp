#include "trainer/device/tensor_memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <malloc.h>

#include <atomic>

#include "core/error.h"

namespace olmoe::tensor_memory {
namespace {

/// Counts what LibTorch's allocator of host memory hands out. The deleter is given no size, so malloc's block sizes are
/// counted, some bytes more than the tensors'. Memory is freed by any thread.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size_bytes) override {
    auto memory = inner_.allocate(size_bytes);
    ENSURE(memory.compare_exchange_deleter(inner_.raw_deleter(), &free_counted),
           "LibTorch frees host memory in another way");
    add(block_bytes(memory.get()));
    return memory;
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_counted; }
  void copy_data(void* to, const void* from, size_t size_bytes) const override {
    default_copy_data(to, from, size_bytes);
  }

  int64_t bytes() const { return bytes_; }
  int64_t peak_bytes() const { return peak_bytes_; }
  void reset_peak() { peak_bytes_ = bytes_.load(); }

 private:
  static int64_t block_bytes(void* memory) { return static_cast<int64_t>(malloc_usable_size(memory)); }
  static void free_counted(void* memory);
  void add(int64_t size_bytes) {
    const int64_t now = bytes_ += size_bytes;
    int64_t peak = peak_bytes_;
    while (now > peak && !peak_bytes_.compare_exchange_weak(peak, now)) continue;
  }

  c10::Allocator& inner_ = *c10::GetDefaultCPUAllocator();
  std::atomic<int64_t> bytes_ = 0, peak_bytes_ = 0;
};

/// Never destroyed: tensors of static objects are freed after ours.
CountingAllocator& host_allocator() {
  static auto* const allocator = new CountingAllocator;
  return *allocator;
}

void CountingAllocator::free_counted(void* memory) {
  auto& allocator = host_allocator();
  allocator.bytes_ -= block_bytes(memory);
  allocator.inner_.raw_deallocate(memory);
}

bool counts_host() { return c10::GetCPUAllocator() == &host_allocator(); }

c10::CachingAllocator::Stat device_bytes(at::Device device) {
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

}  // namespace

void count_host() { c10::SetCPUAllocator(&host_allocator()); }

std::optional<int64_t> bytes(at::Device device) {
  if (!device.is_cpu()) return device_bytes(device).current;
  return counts_host() ? std::optional(host_allocator().bytes()) : std::nullopt;
}

std::optional<int64_t> peak_bytes(at::Device device) {
  if (!device.is_cpu()) return device_bytes(device).peak;
  return counts_host() ? std::optional(host_allocator().peak_bytes()) : std::nullopt;
}

void reset_peak(at::Device device) {
  if (!device.is_cpu()) return c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
  host_allocator().reset_peak();
}

}  // namespace olmoe::tensor_memory
