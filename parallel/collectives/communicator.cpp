#include "parallel/collectives/communicator.h"

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

/// True if `part` is exactly part `rank` of `whole`, as in-place collectives need it.
bool is_own_part(const at::Tensor& part, const at::Tensor& whole, int rank) {
  return part.dtype() == whole.dtype() && static_cast<const std::byte*>(part.data_ptr()) ==
                                              static_cast<const std::byte*>(whole.data_ptr()) + rank * part.nbytes();
}

void check_tensor(const Communicator& group, const at::Tensor& tensor, const char* call) {
  ENSURE(tensor.defined(), "{}.{}: undefined tensor", group.name(), call);
  ENSURE(tensor.is_contiguous(), "{}.{}: a tensor of sizes {} and strides {} is not contiguous", group.name(), call,
         fmt::join(tensor.sizes(), "x"), fmt::join(tensor.strides(), ","));
}

void check_pair(const Communicator& group, const at::Tensor& out, const at::Tensor& in, const char* call) {
  check_tensor(group, out, call);
  check_tensor(group, in, call);
  ENSURE(out.device() == in.device(), "{}.{}: out is on {}, in on {}", group.name(), call, out.device().str(),
         in.device().str());
}

void check_rows(const Communicator& group, const at::Tensor& tensor, const std::vector<int64_t>& rows,
                const char* what) {
  ENSURE(static_cast<int>(rows.size()) == group.size(), "{}.all_to_all: {} names {} ranks of {}", group.name(), what,
         rows.size(), group.size());
  for (int64_t count : rows) {
    ENSURE(count >= 0, "{}.all_to_all: {} = {}", group.name(), what, fmt::join(rows, ", "));
  }
  const int64_t sum = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  ENSURE(tensor.dim() >= 1 && tensor.size(0) == sum, "{}.all_to_all: {} = {} adds up to {} rows, the tensor is {}",
         group.name(), what, fmt::join(rows, ", "), sum, fmt::join(tensor.sizes(), "x"));
}

/// Back end of a group of one: the base class serves every collective.
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
    : name_(std::move(name)), rank_(rank), size_(size), buffers_(name_), diagnostics_(name_) {
  ENSURE(rank >= 0 && rank < size, "{}: rank {} of {}", name_, rank, size);
}

Communicator::~Communicator() = default;

void Communicator::all_gather(at::Tensor out, const at::Tensor& in) {
  check_pair(*this, out, in, "all_gather");
  ENSURE(out.numel() == size_ * in.numel() && out.dtype() == in.dtype(),
         "{}.all_gather: out is {} {}, in is {} {}, and {} ranks take part", name_, out.numel(), out.dtype().name(),
         in.numel(), in.dtype().name(), size_);
  const bool in_place = is_own_part(in, out, rank_);
  ENSURE(in_place || !overlap(out, in), "{}.all_gather: in overlaps out, but is not part {} of it", name_, rank_);
  const int64_t call = diagnostics_.enter(Collective::all_gather, in.scalar_type(), in.numel());
  if (size_ > 1) {
    do_all_gather(out, in);
  } else if (!in_place) {
    out.view(-1).copy_(in.view(-1));
  }
  diagnostics_.finish(call, &Traffic::all_gather, (size_ - 1) * static_cast<int64_t>(in.nbytes()));
}

void Communicator::reduce_scatter(at::Tensor out, const at::Tensor& in) {
  check_pair(*this, out, in, "reduce_scatter");
  ENSURE(in.numel() == size_ * out.numel(), "{}.reduce_scatter: in has {} elements, out {}, and {} ranks take part",
         name_, in.numel(), out.numel(), size_);
  check_reducible(in.scalar_type(), out.scalar_type(), name_ + ".reduce_scatter");
  const bool in_place = is_own_part(out, in, rank_);
  ENSURE(in_place || !overlap(out, in), "{}.reduce_scatter: out overlaps in, but is not part {} of it in in's dtype",
         name_, rank_);
  const int64_t call = diagnostics_.enter(Collective::reduce_scatter, in.scalar_type(), in.numel());
  if (size_ > 1) {
    do_reduce_scatter(out, in);
  } else if (!in_place) {
    out.view(-1).copy_(in.view(-1));
  }
  diagnostics_.finish(call, &Traffic::reduce_scatter, (size_ - 1) * out.numel() * in.element_size());
}

void Communicator::all_reduce(at::Tensor inout, Reduce op) {
  check_tensor(*this, inout, "all_reduce");
  check_reducible(inout.scalar_type(), inout.scalar_type(), name_ + ".all_reduce");
  const int64_t call = diagnostics_.enter(Collective::all_reduce, inout.scalar_type(), inout.numel());
  if (size_ > 1) do_all_reduce(inout, op);
  // Counted as a reduce_scatter of the parts, then an all_gather of their sums.
  const int64_t own = part_bytes(inout, size_, rank_);
  diagnostics_.finish(call, &Traffic::all_reduce, static_cast<int64_t>(inout.nbytes()) - own + (size_ - 1) * own);
}

void Communicator::all_to_all(at::Tensor out, const at::Tensor& in, const std::vector<int64_t>& recv,
                              const std::vector<int64_t>& send) {
  check_pair(*this, out, in, "all_to_all");
  check_rows(*this, out, recv, "recv");
  check_rows(*this, in, send, "send");
  ENSURE(out.dtype() == in.dtype() && out.sizes().slice(1) == in.sizes().slice(1),
         "{}.all_to_all: rows of out are {} {}, rows of in {} {}", name_, out.dtype().name(),
         fmt::join(out.sizes().slice(1), "x"), in.dtype().name(), fmt::join(in.sizes().slice(1), "x"));
  ENSURE(!overlap(out, in), "{}.all_to_all: out and in overlap", name_);
  ENSURE(send[rank_] == recv[rank_], "{}.all_to_all: rank {} sends itself {} rows but receives {}", name_, rank_,
         send[rank_], recv[rank_]);
  const int64_t call = diagnostics_.enter(Collective::all_to_all, in.scalar_type(), in.numel());
  if (size_ > 1) {
    do_all_to_all(out, in, recv, send);
  } else {
    out.copy_(in);
  }
  const int64_t others = in.size(0) - send[rank_];
  const int64_t bytes = others > 0 ? others * (static_cast<int64_t>(in.nbytes()) / in.size(0)) : 0;
  diagnostics_.finish(call, &Traffic::all_to_all, bytes);
}

void Communicator::broadcast(at::Tensor inout, int root) {
  check_tensor(*this, inout, "broadcast");
  ENSURE(root >= 0 && root < size_, "{}.broadcast: root {} of {} ranks", name_, root, size_);
  const int64_t call = diagnostics_.enter(Collective::broadcast, inout.scalar_type(), inout.numel());
  if (size_ > 1) do_broadcast(inout, root);
  const int64_t bytes = rank_ == root ? (size_ - 1) * static_cast<int64_t>(inout.nbytes()) : 0;
  diagnostics_.finish(call, &Traffic::broadcast, bytes);
}

void Communicator::barrier() {
  const int64_t call = diagnostics_.enter(Collective::barrier, at::kByte, 0);
  if (size_ > 1) do_barrier();
  diagnostics_.finish(call, &Traffic::barrier, 0);
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string name) {
  ENSURE(color >= 0, "{}.split: color {} is negative", name_, color);
  const int64_t call = diagnostics_.enter(Collective::split, at::kInt, 2);
  auto group = do_split(color, key, std::move(name));
  group->diagnostics_.join_trace_of(diagnostics_);
  diagnostics_.finish(call);
  return group;
}

std::unique_ptr<Communicator> make_single_communicator() { return std::make_unique<SingleCommunicator>("world"); }

}  // namespace olmoe
