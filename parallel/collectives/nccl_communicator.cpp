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

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0), "windows over registered memory came with NCCL 2.27");

/// An NCCL communicator that never blocks: a call which is under way is asked for its state until it is done or has
/// failed, so that a failure of a peer ends in an Error and not in a hang.
class NcclGroup final : public Registrar {
 public:
  /// Joins the ranks of `host`, which outlives it and which hold the same id. Collective.
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

  /// `enqueue` makes one call, or several of which the first failure counts, as one group.
  template <class Enqueue>
  void run(const char* call, const Enqueue& enqueue) {
    check();
    finish(enqueue(), call);
  }
  template <class Enqueue>
  void run_grouped(const char* call, const Enqueue& enqueue) {
    run(call, [&] {
      ncclResult_t result = ncclGroupStart();
      if (result == ncclSuccess) result = enqueue();
      const ncclResult_t end = ncclGroupEnd();  // also after a failure: every start has its end
      return failed(result) ? result : end;
    });
  }

  /// Throws if something failed since the last call.
  void check() { finish(ncclSuccess, "poll"); }

  /// Collective: all ranks tell of memory of the same size. Offsets into it are the same on all ranks where one reads
  /// or writes another's, as ours are. Where ranks are not all joined by NVLink, NCCL registers it for itself alone.
  void* remember(void* data, size_t size_bytes) override {
    ncclWindow_t window = nullptr;
    run("register", [&] { return ncclCommWindowRegister(comm_, data, size_bytes, &window, NCCL_WIN_COLL_SYMMETRIC); });
    if (window != nullptr) windows_.push_back(window);
    return window;
  }
  void forget(void* handle) noexcept override {
    std::erase(windows_, handle);
    drop(static_cast<ncclWindow_t>(handle));
  }

  /// The ranks of equal color, ordered by key, which `host` joins too; null for kNoGroup. Collective over this group.
  static constexpr int kNoGroup = NCCL_SPLIT_NOCOLOR;
  std::shared_ptr<NcclGroup> split(int color, int key, Communicator& host) {
    auto config = non_blocking();
    config.splitShare = 1;  // buffers of the parent: most groups of a mesh have its ranks anyway
    ncclComm_t part = nullptr;
    // Done when this group is: until then `part` may not have been written.
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

  /// State of the group, once nothing is under way. Throws if the host knows of a dead rank before.
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

  /// True where the call and what it started went well; for calls on the way out, which have no one to tell.
  bool ends_well(ncclResult_t result) const noexcept {
    try {
      return !failed(result) && !failed(settle());
    } catch (const std::exception&) {  // another rank is dead
      return false;
    }
  }

  /// After all work that still uses the window.
  void drop(ncclWindow_t window) noexcept {
    int device = 0;
    broken_ = broken_ || failed(ncclCommCuDevice(comm_, &device));
    if (broken_) return;
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    broken_ = cudaDeviceSynchronize() != cudaSuccess || !ends_well(ncclCommWindowDeregister(comm_, window));
  }

  /// All ranks leave together and let their last work end; but a rank that unwinds does not wait for the others.
  void leave() noexcept {
    if (comm_ == nullptr) return;
    const auto in_order = [&] { return !broken_ && std::uncaught_exceptions() == exceptions_; };
    if (in_order())
      for (auto* const window : windows_) drop(window);
    if (in_order() && ends_well(ncclCommFinalize(comm_))) {
      ncclCommDestroy(comm_);
    } else {
      ncclCommAbort(comm_);
    }
  }

  Communicator& host_;
  ncclComm_t comm_ = nullptr;
  std::vector<ncclWindow_t> windows_;  // of memory that it was told of and that is still there
  bool broken_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

/// The id that rank 0 draws. Collective over `host`.
ncclUniqueId agree_on_id(Communicator& host) {
  ncclUniqueId id{};
  if (host.rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    ENSURE(result == ncclSuccess, "{}: ncclGetUniqueId: {}", host.name(), ncclGetErrorString(result));
  }
  host.broadcast(at::from_blob(id.internal, {NCCL_UNIQUE_ID_BYTES}, at::kByte), 0);
  return id;
}

class NcclCommunicator final : public StackedCommunicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, std::shared_ptr<NcclGroup> group, c10::Device device)
      : StackedCommunicator(std::move(host)), group_(std::move(group)), device_(device) {}

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

  /// NCCL sums in the type that it moves: so move the narrow parts, and sum them here.
  void reduce_scatter_wider(at::Tensor& out, const at::Tensor& in) {
    at::Tensor parts_WN = at::empty({size(), out.numel()}, in.options());
    const std::vector<int64_t> one_each(size(), 1);
    do_all_to_all(parts_WN, in.view({size(), out.numel()}), one_each, one_each);
    sum_in_rank_order(out, parts_WN);
  }

  void do_all_reduce(at::Tensor& inout, Reduce op) override {
    if (on_host(inout)) return StackedCommunicator::do_all_reduce(inout, op);
    if (op != Reduce::sum) return all_reduce_extreme(inout, op);
    group_->run("all_reduce", [&] {
      return ncclAllReduce(inout.data_ptr(), inout.data_ptr(), inout.numel(), nccl_type(inout.scalar_type()), ncclSum,
                           group_->comm(), stream());
    });
  }

  /// NCCL's max and min lose a NaN; ATen's keep it.
  void all_reduce_extreme(at::Tensor& inout, Reduce op) {
    at::Tensor all_WN = at::empty({size(), inout.numel()}, inout.options());
    do_all_gather(all_WN, inout);
    const at::Tensor extreme_N = op == Reduce::max ? at::amax(all_WN, 0) : at::amin(all_WN, 0);
    inout.copy_(extreme_N.view(inout.sizes()));
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

  at::Tensor do_allocate(int64_t bytes, c10::Device device) override {
    if (device.is_cpu() || bytes == 0) return host().allocate(bytes, device);
    const c10::cuda::CUDAGuard guard(device_);
    void* data = nullptr;
    const ncclResult_t result = ncclMemAlloc(&data, static_cast<size_t>(bytes));
    ENSURE(result == ncclSuccess, "{}.allocate: {} bytes: {}", name(), bytes, ncclGetErrorString(result));
    at::Tensor memory = RegisteredMemory::wrap(data, bytes, device_, [place = device_](void* freed) {
      const c10::cuda::CUDAGuard its_device(place);
      cudaDeviceSynchronize();  // LibTorch's allocator would wait for what still uses it
      ncclMemFree(freed);
    });
    memory.zero_();
    do_enroll(memory);
    return memory;
  }

  void do_enroll(const at::Tensor& memory) override {
    if (memory.numel() == 0 || on_host(memory)) return;
    auto* const known = RegisteredMemory::of(memory);
    ENSURE(known != nullptr, "{}.enroll: no group over NCCL gave this memory", name());
    const c10::cuda::CUDAGuard guard(device_);
    known->tell(group_);
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    auto part = split_host(color, key, std::move(name));
    const bool alone = part->size() == 1;
    auto group = group_->split(alone ? NcclGroup::kNoGroup : color, key, *part);
    if (alone) return part;
    return std::make_unique<NcclCommunicator>(std::move(part), std::move(group), device_);
  }

  bool on_host(const at::Tensor& tensor) const {
    if (tensor.is_cpu()) return true;
    ENSURE(tensor.device() == device_, "{}: a tensor is on {}, the group on {}", name(), tensor.device().str(),
           device_.str());
    return false;
  }

  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()).stream(); }

  std::shared_ptr<NcclGroup> group_;
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
