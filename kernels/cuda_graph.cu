#include "kernels/cuda_graph.h"

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <mutex>

#include "core/error.h"

namespace olmoe::kernels::cuda {
namespace {

void order(const c10::cuda::CUDAStream& first, const c10::cuda::CUDAStream& second) {
  at::cuda::CUDAEvent event;
  event.record(first);
  event.block(second);
}

class GraphRecorder final : public Recorder {
 public:
  explicit GraphRecorder(c10::Device device)
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
    // What other threads do meanwhile, NCCL's among them, is none of the graph's business.
    graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const std::exception&) {  // the first error is the one to tell
      }
      throw;
    }
    graph_.capture_end();
  }

  c10::cuda::CUDAStream stream_;
  at::cuda::CUDAGraph graph_;
  bool recorded_ = false;
};

}  // namespace

std::unique_ptr<Recorder> make_graph_recorder(c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  return std::make_unique<GraphRecorder>(c10::Device(c10::kCUDA, c10::cuda::current_device()));
}

}  // namespace olmoe::kernels::cuda
