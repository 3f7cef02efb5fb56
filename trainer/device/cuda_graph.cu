#include "trainer/device/cuda_graph.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <mutex>

#include "core/error.h"

namespace olmoe::cuda {
namespace {

void order(const c10::cuda::CUDAStream& first, const c10::cuda::CUDAStream& second) {
  at::cuda::CUDAEvent event;
  event.record(first);
  event.block(second);
}

class CudaDeviceGraph final : public DeviceGraph {
 public:
  explicit CudaDeviceGraph(c10::Device device)
      : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  void warm_up(const std::function<void()>& work) override { run_on_stream(work); }

  void capture(const std::function<void()>& work) override {
    ENSURE(!captured_, "a graph is captured once");
    const std::lock_guard one_at_a_time(mutex());
    // A graph has a memory pool of its own: what the warm-up cached would stay unused.
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    run_on_stream([&] { capture_work(work); });
    captured_ = true;
  }

  void replay() override {
    ENSURE(captured_, "there is no graph to replay");
    graph_.replay();
  }

 private:
  /// LibTorch's allocator is one per process, and frees no memory while any thread captures.
  static std::mutex& mutex() {
    static std::mutex only_one;
    return only_one;
  }

  /// The caller's own stream may be the default one, which cannot be captured.
  void run_on_stream(const std::function<void()>& work) const {
    const auto caller = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    order(caller, stream_);
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      work();
    }
    order(stream_, caller);
  }

  void capture_work(const std::function<void()>& work) {
    const auto pool = at::cuda::graph_pool_handle();
    bool ending = false;
    try {
      // What other threads enqueue meanwhile, NCCL's among them, is not captured.
      graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
      work();
      ending = true;
      graph_.capture_end();
    } catch (...) {
      if (!ending) quietly([&] { graph_.capture_end(); });
      give_back(pool);
      cudaGetLastError();  // clears the capture's error, which is thrown here, before the next launch sees it
      throw;
    }
  }

  /// Where a capture fails, LibTorch 2.11 does not notify its two allocators, of device and of pinned memory: they
  /// would keep allocating from the graph's pools, by a filter that belongs to the graph, and free nothing.
  void give_back(const c10::MempoolId_t& pool) {
    namespace device = c10::cuda::CUDACachingAllocator;
    const auto index = stream_.device_index();
    auto* const host = at::getHostAllocator(at::kCUDA);
    quietly([&] { device::endAllocateToPool(index, pool); });  // these throw where the capture has ended
    quietly([&] { host->end_allocate_to_pool(pool); });
    if (quietly([&] { graph_.pool(); })) return;  // a graph that has ended its capture gives its pools back itself
    quietly([&] { device::releasePool(index, pool); });
    quietly([&] { host->release_pool(pool); });
  }

  /// True if `call` did not throw. The first error is the one to report.
  template <class Call>
  static bool quietly(const Call& call) {
    try {
      call();
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }

  c10::cuda::CUDAStream stream_;
  at::cuda::CUDAGraph graph_;
  bool captured_ = false;
};

}  // namespace

std::unique_ptr<DeviceGraph> make_device_graph(c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  return std::make_unique<CudaDeviceGraph>(c10::Device(c10::kCUDA, c10::cuda::current_device()));
}

}  // namespace olmoe::cuda
