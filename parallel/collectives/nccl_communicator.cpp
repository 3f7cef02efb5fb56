// Shapes: W ranks of the group, N elements of a part.
#include "parallel/collectives/nccl_communicator.h"

#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "core/error.h"
#include "parallel/collectives/host_wait.h"
#include "parallel/collectives/rank_sum.h"
#include "parallel/collectives/registered_memory.h"
#include "parallel/collectives/stacked_communicator.h"

namespace olmoe {
namespace {

ncclDataType_t nccl_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return ncclFloat64;
    case at::kFloat:
      return ncclFloat32;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kLong:
      return ncclInt64;
    case at::kInt:
      return ncclInt32;
    default:
      throw Error(fmt::format("NCCL does not reduce {} here", c10::toString(dtype)));
  }
}

int64_t row_bytes(const at::Tensor& tensor) {
  int64_t bytes = tensor.element_size();
  for (int64_t extent : tensor.sizes().slice(1)) bytes *= extent;
  return bytes;
}

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0), "buffers are registered as windows, since NCCL 2.27");

/// A non-blocking NCCL communicator: the state of a call is polled until it is done or has failed, so that a failure of
/// a peer ends in an Error and not in a hang.
class NcclGroup final : public Registrar {
 public:
  /// The ranks of `host`, which outlives it; `id` is the same on all. Collective over `host`.
  NcclGroup(Communicator& host, const ncclUniqueId& id) : NcclGroup(host, ncclComm_t{nullptr}) {
    auto config = non_blocking();
    const auto result = ncclCommInitRankConfig(&comm_, host.size(), id, host.rank(), &config);
    finish(result, "init");
  }
  ~NcclGroup() override { leave(); }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  ncclComm_t comm() const { return comm_; }
  static bool failed(ncclResult_t result) { return result != ncclSuccess && result != ncclInProgress; }

  /// Makes the NCCL call `enqueue`; throws Error if it or an earlier one failed.
  template <class Enqueue>
  void run(const char* call, const Enqueue& enqueue) {
    check();
    finish(enqueue(), call);
  }
  /// The same for several calls as one NCCL group; `enqueue` returns the first failure.
  template <class Enqueue>
  void run_grouped(const char* call, const Enqueue& enqueue) {
    run(call, [&] {
      ncclResult_t result = ncclGroupStart();
      if (result == ncclSuccess) result = enqueue();
      const ncclResult_t end = ncclGroupEnd();  // also after a failure: starts and ends must match
      return failed(result) ? result : end;
    });
  }

  /// Throws Error if something failed since the last call.
  void check() { finish(ncclSuccess, "poll"); }

  /// All ranks register a buffer of the same size, and use the same offsets into it in a collective. Where not all
  /// ranks are connected by NVLink, NCCL makes a registration that is local to the rank. Collective over this group.
  void* register_buffer(void* data, size_t size_bytes) override {
    ncclWindow_t window = nullptr;
    run("register", [&] { return ncclCommWindowRegister(comm_, data, size_bytes, &window, NCCL_WIN_COLL_SYMMETRIC); });
    if (window != nullptr) windows_.push_back(window);
    return window;
  }
  void deregister(void* handle) noexcept override {
    std::erase(windows_, handle);
    deregister_window(static_cast<ncclWindow_t>(handle));
  }

  /// The ranks of equal color, ordered by key, which are those of `host`; null for kNoGroup. Collective over this
  /// group.
  static constexpr int kNoGroup = NCCL_SPLIT_NOCOLOR;
  std::shared_ptr<NcclGroup> split(int color, int key, Communicator& host) {
    auto config = non_blocking();
    config.splitShare = 1;  // uses the parent's buffers and connections: most groups of a mesh are made of its ranks
    ncclComm_t part = nullptr;
    // run() waits for this group: before that `part` may not have been written.
    run("split", [&] { return ncclCommSplit(comm_, color, key, &part, &config); });
    if (color == kNoGroup) return nullptr;
    ENSURE(part != nullptr, "{}.split: NCCL made no group {}", host_.name(), host.name());
    std::shared_ptr<NcclGroup> group(new NcclGroup(host, part));
    group->finish(ncclSuccess, "init");
    return group;
  }

 private:
  NcclGroup(Communicator& host, ncclComm_t comm) : host_(host), comm_(comm) {}

  static ncclConfig_t non_blocking() {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return config;
  }

  /// State of the group once no call is in progress. Throws Error if the host learns of a dead rank before.
  ncclResult_t settle() const {
    ncclResult_t state = ncclInProgress, asked = ncclSuccess;
    const auto settled = [&] {
      asked = ncclCommGetAsyncError(comm_, &state);
      return failed(asked) || state != ncclInProgress;
    };
    wait_until(settled, host_);
    return failed(asked) ? asked : state;
  }

  void finish(ncclResult_t result, const char* call) {
    if (!failed(result)) result = settle();
    if (!failed(result)) return;
    broken_ = true;
    throw Error(
        fmt::format("{}.{}: NCCL: {} ({})", host_.name(), call, ncclGetErrorString(result), ncclGetLastError(comm_)));
  }

  /// True if the call and what it started succeeded; for destructors, which cannot throw.
  bool succeeds(ncclResult_t result) const noexcept {
    try {
      return !failed(result) && !failed(settle());
    } catch (const std::exception&) {  // another rank is dead
      return false;
    }
  }

  /// Deregisters the window, after all work that still uses it.
  void deregister_window(ncclWindow_t window) noexcept {
    int device = 0;
    broken_ = broken_ || failed(ncclCommCuDevice(comm_, &device));
    if (broken_) return;
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    broken_ = cudaDeviceSynchronize() != cudaSuccess || !succeeds(ncclCommWindowDeregister(comm_, window));
  }

  /// Finalizes together with the other ranks, after the last enqueued work; while an exception unwinds the stack it
  /// aborts instead and does not wait for them.
  void leave() noexcept {
    if (comm_ == nullptr) return;
    const auto in_order = [&] { return !broken_ && std::uncaught_exceptions() == exceptions_; };
    if (in_order())
      for (auto* const window : windows_) deregister_window(window);
    if (in_order() && succeeds(ncclCommFinalize(comm_))) {
      ncclCommDestroy(comm_);
    } else {
      ncclCommAbort(comm_);
    }
  }

  Communicator& host_;
  ncclComm_t comm_ = nullptr;
  std::vector<ncclWindow_t> windows_;  // of buffers that are registered and not freed yet
  bool broken_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

/// The id that rank 0 makes, on all ranks. Collective over `host`.
ncclUniqueId agree_on_id(Communicator& host) {
  ncclUniqueId id{};
  if (host.rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    ENSURE(result == ncclSuccess, "{}: ncclGetUniqueId: {}", host.name(), ncclGetErrorString(result));
  }
  host.broadcast(at::from_blob(id.internal, {NCCL_UNIQUE_ID_BYTES}, at::kByte), 0);
  return id;
}

/// A tensor in host memory is left to the host's back end. Throws Error for one on another GPU.
bool on_host(const at::Tensor& tensor, c10::Device device, const std::string& group) {
  if (tensor.is_cpu()) return true;
  ENSURE(tensor.device() == device, "{}: a tensor is on {}, the group on {}", group, tensor.device().str(),
         device.str());
  return false;
}

/// Buffers from NCCL's allocator, registered with `ranks`.
class NcclBuffers final : public BufferRegistry {
 public:
  NcclBuffers(std::string group, std::shared_ptr<NcclGroup> ranks, c10::Device device)
      : BufferRegistry(std::move(group)), ranks_(std::move(ranks)), device_(device) {}

 private:
  at::Tensor do_allocate(int64_t bytes, c10::Device device) override {
    if (device.is_cpu() || bytes == 0) return BufferRegistry::do_allocate(bytes, device);
    const c10::cuda::CUDAGuard guard(device_);
    void* data = nullptr;
    const ncclResult_t result = ncclMemAlloc(&data, static_cast<size_t>(bytes));
    ENSURE(result == ncclSuccess, "{}.allocate: {} bytes: {}", group(), bytes, ncclGetErrorString(result));
    at::Tensor buffer = RegisteredMemory::wrap(data, bytes, device_, [device = device_](void* freed) {
      const c10::cuda::CUDAGuard its_device(device);
      cudaDeviceSynchronize();  // no stream may use it any more; LibTorch's allocator would wait too
      ncclMemFree(freed);
    });
    buffer.zero_();
    do_register_buffer(buffer);
    return buffer;
  }

  void do_register_buffer(const at::Tensor& buffer) override {
    if (buffer.numel() == 0 || on_host(buffer, device_, group())) return;
    auto* const memory = RegisteredMemory::of(buffer);
    ENSURE(memory != nullptr, "{}.register_buffer: the buffer was not allocated by a group over NCCL", group());
    const c10::cuda::CUDAGuard guard(device_);
    memory->register_with(ranks_);
  }

  std::shared_ptr<NcclGroup> ranks_;
  c10::Device device_;
};

class NcclCommunicator final : public StackedCommunicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, std::shared_ptr<NcclGroup> group, c10::Device device)
      : StackedCommunicator(std::move(host)),
        group_(std::move(group)),
        buffers_(name(), group_, device),
        device_(device) {}

  BufferRegistry& buffers() override { return buffers_; }
  void poll() override {
    group_->check();
    StackedCommunicator::poll();
  }

 private:
  void do_all_gather(at::Tensor& out, const at::Tensor& in) override {
    if (on_host(in)) return StackedCommunicator::do_all_gather(out, in);
    group_->run("all_gather", [&] {
      return ncclAllGather(in.data_ptr(), out.data_ptr(), in.nbytes(), ncclInt8, group_->comm(), stream());
    });
  }

  void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) override {
    if (on_host(in)) return StackedCommunicator::do_reduce_scatter(out, in);
    if (in.dtype() != out.dtype()) return reduce_scatter_wider(out, in);
    group_->run("reduce_scatter", [&] {
      return ncclReduceScatter(in.data_ptr(), out.data_ptr(), out.numel(), nccl_type(in.scalar_type()), ncclSum,
                               group_->comm(), stream());
    });
  }

  /// NCCL sums in the dtype that it sends: so the narrow parts are exchanged, and summed here.
  void reduce_scatter_wider(at::Tensor& out, const at::Tensor& in) {
    at::Tensor parts_Pn = at::empty({size(), out.numel()}, in.options());
    const std::vector<int64_t> one_each(size(), 1);
    do_all_to_all(parts_Pn, in.view({size(), out.numel()}), one_each, one_each);
    sum_in_rank_order(out, parts_Pn);
  }

  void do_all_reduce(at::Tensor& inout, Reduce op) override {
    if (on_host(inout)) return StackedCommunicator::do_all_reduce(inout, op);
    if (op != Reduce::sum) return all_reduce_extreme(inout, op);
    group_->run("all_reduce", [&] {
      return ncclAllReduce(inout.data_ptr(), inout.data_ptr(), inout.numel(), nccl_type(inout.scalar_type()), ncclSum,
                           group_->comm(), stream());
    });
  }

  /// NCCL's max and min may lose a NaN; ATen's keep it.
  void all_reduce_extreme(at::Tensor& inout, Reduce op) {
    at::Tensor all_Pn = at::empty({size(), inout.numel()}, inout.options());
    do_all_gather(all_Pn, inout);
    const at::Tensor extreme_n = op == Reduce::max ? at::amax(all_Pn, 0) : at::amin(all_Pn, 0);
    inout.copy_(extreme_n.view(inout.sizes()));
  }

  void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                     const std::vector<int64_t>& send) override {
    if (on_host(in)) return StackedCommunicator::do_all_to_all(out, in, recv, send);
    const size_t row = row_bytes(in);
    auto* to = static_cast<std::byte*>(out.data_ptr());
    const auto* from = static_cast<const std::byte*>(in.data_ptr());
    group_->run_grouped("all_to_all", [&] {
      ncclResult_t result = ncclSuccess;
      for (int r = 0; r < size() && !NcclGroup::failed(result); ++r) {
        const size_t sent = send[r] * row, received = recv[r] * row;
        if (sent > 0) result = ncclSend(from, sent, ncclInt8, r, group_->comm(), stream());
        if (received > 0 && !NcclGroup::failed(result))
          result = ncclRecv(to, received, ncclInt8, r, group_->comm(), stream());
        from += sent;
        to += received;
      }
      return result;
    });
  }

  void do_broadcast(at::Tensor& inout, int root) override {
    if (on_host(inout)) return StackedCommunicator::do_broadcast(inout, root);
    group_->run("broadcast", [&] {
      return ncclBroadcast(inout.data_ptr(), inout.data_ptr(), inout.nbytes(), ncclInt8, root, group_->comm(),
                           stream());
    });
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    auto part = split_host(color, key, std::move(name));
    const bool alone = part->size() == 1;
    auto group = group_->split(alone ? NcclGroup::kNoGroup : color, key, *part);
    if (alone) return part;
    return std::make_unique<NcclCommunicator>(std::move(part), std::move(group), device_);
  }

  bool on_host(const at::Tensor& tensor) const { return olmoe::on_host(tensor, device_, name()); }

  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()).stream(); }

  std::shared_ptr<NcclGroup> group_;
  NcclBuffers buffers_;
  c10::Device device_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, c10::Device device) {
  ENSURE(device.is_cuda(), "NCCL joins GPUs, not {}", device.str());
  if (!device.has_index()) device = c10::Device(c10::kCUDA, c10::cuda::current_device());
  const c10::cuda::CUDAGuard guard(device);
  const ncclUniqueId id = agree_on_id(*host);
  auto group = std::make_shared<NcclGroup>(*host, id);
  return std::make_unique<NcclCommunicator>(std::move(host), std::move(group), device);
}

}  // namespace olmoe
