#include "parallel/collectives/communicator.h"

#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/integers.h"
#include "parallel/collectives/rank_sum.h"

namespace olmoe {
namespace {

int64_t part_bytes(const at::Tensor& tensor, int parts, int p) {
  return (cut(tensor.numel(), parts, p + 1) - cut(tensor.numel(), parts, p)) * tensor.element_size();
}

bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto* a_begin = static_cast<const std::byte*>(a.data_ptr());
  const auto* b_begin = static_cast<const std::byte*>(b.data_ptr());
  return a_begin < b_begin + b.nbytes() && b_begin < a_begin + a.nbytes();
}

/// True if `part` is exactly piece `rank` of `whole`, as in-place collectives want it.
bool is_own_part(const at::Tensor& part, const at::Tensor& whole, int rank) {
  return part.dtype() == whole.dtype() && static_cast<const std::byte*>(part.data_ptr()) ==
                                              static_cast<const std::byte*>(whole.data_ptr()) + rank * part.nbytes();
}

/// Back end of a group of one: every collective has been served before it gets here.
class SingleCommunicator final : public Communicator {
 public:
  explicit SingleCommunicator(std::string name) : Communicator(std::move(name), 0, 1) {}
  void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  void do_all_gather(at::Tensor&, const at::Tensor&) override { unreachable(); }
  void do_reduce_scatter(at::Tensor&, const at::Tensor&) override { unreachable(); }
  void do_all_reduce(at::Tensor&, Reduce) override { unreachable(); }
  void do_all_to_all(at::Tensor&, const at::Tensor&, const std::vector<int64_t>&,
                     const std::vector<int64_t>&) override {
    unreachable();
  }
  void do_broadcast(at::Tensor&, int) override { unreachable(); }
  void do_barrier() override { unreachable(); }
  std::unique_ptr<Communicator> do_split(int, int, std::string name) override {
    return std::make_unique<SingleCommunicator>(std::move(name));
  }
  [[noreturn]] static void unreachable() { throw Error("a group of one called its back end"); }
};

}  // namespace

Communicator::Communicator(std::string name, int rank, int size)
    : name_(std::move(name)), rank_(rank), size_(size), trace_(std::make_shared<CallTrace>()) {
  ENSURE(rank >= 0 && rank < size, "{}: rank {} of {}", name_, rank, size);
}

Communicator::~Communicator() = default;

void Communicator::all_gather(at::Tensor out, const at::Tensor& in) {
  check_pair(out, in, "all_gather");
  ENSURE(out.numel() == size_ * in.numel() && out.dtype() == in.dtype(),
         "{}.all_gather: out is {} {}, in is {} {}, and {} ranks take part", name_, out.numel(), out.dtype().name(),
         in.numel(), in.dtype().name(), size_);
  const bool in_place = is_own_part(in, out, rank_);
  ENSURE(in_place || !overlap(out, in), "{}.all_gather: in is a piece of out, but not piece {}", name_, rank_);
  const int64_t call = trace_->enter(name_, Collective::all_gather, in.scalar_type(), in.numel());
  if (size_ > 1) {
    do_all_gather(out, in);
  } else if (!in_place) {
    out.view(-1).copy_(in.view(-1));
  }
  traffic_.all_gather.calls += 1;
  traffic_.all_gather.bytes += (size_ - 1) * static_cast<int64_t>(in.nbytes());
  trace_->finish(call);
}

void Communicator::reduce_scatter(at::Tensor out, const at::Tensor& in) {
  check_pair(out, in, "reduce_scatter");
  ENSURE(in.numel() == size_ * out.numel(), "{}.reduce_scatter: in has {} elements, out {}, and {} ranks take part",
         name_, in.numel(), out.numel(), size_);
  check_reducible(in.scalar_type(), out.scalar_type(), name_ + ".reduce_scatter");
  const bool in_place = is_own_part(out, in, rank_);
  ENSURE(in_place || !overlap(out, in), "{}.reduce_scatter: out is a piece of in, but not piece {} in in's dtype",
         name_, rank_);
  const int64_t call = trace_->enter(name_, Collective::reduce_scatter, in.scalar_type(), in.numel());
  if (size_ > 1) {
    do_reduce_scatter(out, in);
  } else if (!in_place) {
    out.view(-1).copy_(in.view(-1));
  }
  traffic_.reduce_scatter.calls += 1;
  traffic_.reduce_scatter.bytes += (size_ - 1) * out.numel() * in.element_size();
  trace_->finish(call);
}

void Communicator::all_reduce(at::Tensor inout, Reduce op) {
  check_tensor(inout, "all_reduce");
  check_reducible(inout.scalar_type(), inout.scalar_type(), name_ + ".all_reduce");
  const int64_t call = trace_->enter(name_, Collective::all_reduce, inout.scalar_type(), inout.numel());
  if (size_ > 1) do_all_reduce(inout, op);
  // A reduce_scatter of the pieces, then an all_gather of the sums.
  const int64_t own = part_bytes(inout, size_, rank_);
  traffic_.all_reduce.calls += 1;
  traffic_.all_reduce.bytes += static_cast<int64_t>(inout.nbytes()) - own + (size_ - 1) * own;
  trace_->finish(call);
}

void Communicator::all_to_all(at::Tensor out, const at::Tensor& in, const std::vector<int64_t>& recv,
                              const std::vector<int64_t>& send) {
  check_pair(out, in, "all_to_all");
  check_rows(out, recv, "recv");
  check_rows(in, send, "send");
  ENSURE(out.dtype() == in.dtype() && out.sizes().slice(1) == in.sizes().slice(1),
         "{}.all_to_all: rows of out are {} {}, rows of in {} {}", name_, out.dtype().name(),
         fmt::join(out.sizes().slice(1), "x"), in.dtype().name(), fmt::join(in.sizes().slice(1), "x"));
  ENSURE(!overlap(out, in), "{}.all_to_all: out and in overlap", name_);
  ENSURE(send[rank_] == recv[rank_], "{}.all_to_all: rank {} sends itself {} rows but receives {}", name_, rank_,
         send[rank_], recv[rank_]);
  const int64_t call = trace_->enter(name_, Collective::all_to_all, in.scalar_type(), in.numel());
  if (size_ > 1) {
    do_all_to_all(out, in, recv, send);
  } else {
    out.copy_(in);
  }
  const int64_t others = in.size(0) - send[rank_];
  traffic_.all_to_all.calls += 1;
  if (others > 0) {
    traffic_.all_to_all.bytes += others * (static_cast<int64_t>(in.nbytes()) / in.size(0));
  }
  trace_->finish(call);
}

void Communicator::broadcast(at::Tensor inout, int root) {
  check_tensor(inout, "broadcast");
  ENSURE(root >= 0 && root < size_, "{}.broadcast: root {} of {} ranks", name_, root, size_);
  const int64_t call = trace_->enter(name_, Collective::broadcast, inout.scalar_type(), inout.numel());
  if (size_ > 1) do_broadcast(inout, root);
  traffic_.broadcast.calls += 1;
  if (rank_ == root) {
    traffic_.broadcast.bytes += (size_ - 1) * static_cast<int64_t>(inout.nbytes());
  }
  trace_->finish(call);
}

void Communicator::barrier() {
  const int64_t call = trace_->enter(name_, Collective::barrier, at::kByte, 0);
  if (size_ > 1) do_barrier();
  traffic_.barrier.calls += 1;
  trace_->finish(call);
}

at::Tensor Communicator::allocate(int64_t bytes, c10::Device device) {
  ENSURE(bytes >= 0, "{}.allocate: {} bytes", name_, bytes);
  return do_allocate(bytes, device);
}

void Communicator::enroll(const at::Tensor& memory) {
  check_tensor(memory, "enroll");
  do_enroll(memory);
}

at::Tensor Communicator::do_allocate(int64_t bytes, c10::Device device) {
  return at::zeros({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  ENSURE(color >= 0, "{}.split: color {} is negative", name_, color);
  const int64_t call = trace_->enter(name_, Collective::split, at::kInt, 2);
  auto group = do_split(color, key, std::move(name));
  group->trace_ = trace_;  // one order of all calls of this rank
  trace_->finish(call);
  return group;
}

void Communicator::traced(Collective kind, const std::function<void()>& work) {
  const int64_t call = trace_->enter(name_, kind, at::kByte, 0);
  work();
  trace_->finish(call);
}

void Communicator::check_tensor(const at::Tensor& tensor, const char* call) const {
  ENSURE(tensor.defined(), "{}.{}: undefined tensor", name_, call);
  ENSURE(tensor.is_contiguous(), "{}.{}: a tensor of sizes {} and strides {} is not contiguous", name_, call,
         fmt::join(tensor.sizes(), "x"), fmt::join(tensor.strides(), ","));
}

void Communicator::check_pair(const at::Tensor& out, const at::Tensor& in, const char* call) const {
  check_tensor(out, call);
  check_tensor(in, call);
  ENSURE(out.device() == in.device(), "{}.{}: out is on {}, in on {}", name_, call, out.device().str(),
         in.device().str());
}

void Communicator::check_rows(const at::Tensor& tensor, const std::vector<int64_t>& rows, const char* what) const {
  ENSURE(static_cast<int>(rows.size()) == size_, "{}.all_to_all: {} names {} ranks of {}", name_, what, rows.size(),
         size_);
  for (int64_t count : rows) {
    ENSURE(count >= 0, "{}.all_to_all: {} = {}", name_, what, fmt::join(rows, ", "));
  }
  const int64_t sum = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  ENSURE(tensor.dim() >= 1 && tensor.size(0) == sum, "{}.all_to_all: {} = {} adds up to {} rows, the tensor is {}",
         name_, what, fmt::join(rows, ", "), sum, fmt::join(tensor.sizes(), "x"));
}

std::unique_ptr<Communicator> make_single_communicator() { return std::make_unique<SingleCommunicator>("world"); }

}  // namespace olmoe
