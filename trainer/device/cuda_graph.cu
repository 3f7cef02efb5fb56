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

class CudaGraphRecorder final : public GraphRecorder {
 public:
  explicit CudaGraphRecorder(c10::Device device)
      : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  void rehearse(const std::function<void()>& work) override { beside_caller(work); }

  void record(const std::function<void()>& work) override {
    ENSURE(!recorded_, "a graph is recorded once");
    const std::lock_guard one_at_a_time(mutex());
    // A graph has a pool of memory of its own: what the rehearsals needed would lie idle beside it.
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    beside_caller([&] { capture(work); });
    recorded_ = true;
  }

  void replay() override {
    ENSURE(recorded_, "there is no graph to replay");
    graph_.replay();
  }

 private:
  /// LibTorch's allocator is the whole process's, and gives no memory back while any thread records.
  static std::mutex& mutex() {
    static std::mutex only_one;
    return only_one;
  }

  /// The caller's own stream may be the default one, which cannot be captured.
  void beside_caller(const std::function<void()>& work) const {
    const auto caller = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    order(caller, stream_);
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      work();
    }
    order(stream_, caller);
  }

  void capture(const std::function<void()>& work) {
    const auto pool = at::cuda::graph_pool_handle();
    bool ending = false;
    try {
      // What other threads do meanwhile, NCCL's among them, is none of the graph's business.
      graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
      work();
      ending = true;
      graph_.capture_end();
    } catch (...) {
      if (!ending) quietly([&] { graph_.capture_end(); });
      give_back(pool);
      cudaGetLastError();  // that of the capture is on its way to the caller, and must not be found by the next launch
      throw;
    }
  }

  /// Where a capture fails, LibTorch 2.11 ends it without a word to its two allocators, of device and of pinned memory.
  /// They would go on filling the graph's pools, by a filter that belongs to the graph, and give nothing back.
  void give_back(const c10::MempoolId_t& pool) {
    namespace device = c10::cuda::CUDACachingAllocator;
    const auto index = stream_.device_index();
    auto* const host = at::getHostAllocator(at::kCUDA);
    quietly([&] { device::endAllocateToPool(index, pool); });  // these throw where they were told
    quietly([&] { host->end_allocate_to_pool(pool); });
    if (quietly([&] { graph_.pool(); })) return;  // a graph that has ended its capture gives its pools back itself
    quietly([&] { device::releasePool(index, pool); });
    quietly([&] { host->release_pool(pool); });
  }

  /// True if `call` did not throw. The first error is the one to tell.
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
  bool recorded_ = false;
};

}  // namespace

std::unique_ptr<GraphRecorder> make_graph_recorder(c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  return std::make_unique<CudaGraphRecorder>(c10::Device(c10::kCUDA, c10::cuda::current_device()));
}

}  // namespace olmoe::cuda
