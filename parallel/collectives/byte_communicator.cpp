#include "parallel/collectives/byte_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/integers.h"
#include "parallel/collectives/host_tensor.h"
#include "parallel/collectives/rank_sum.h"

namespace olmoe {
namespace {

// A reduction sends and sums chunk by chunk: chunks are small enough to be summed out of the cache, and large enough
// for the cost of an exchange not to matter.
constexpr int64_t kChunkBytes = 1 << 18;

std::byte* bytes_of(const at::Tensor& tensor) { return static_cast<std::byte*>(tensor.data_ptr()); }

int64_t row_bytes(const at::Tensor& tensor) {
  int64_t bytes = tensor.element_size();
  for (int64_t extent : tensor.sizes().slice(1)) bytes *= extent;
  return bytes;
}

}  // namespace

void ByteCommunicator::do_all_gather(at::Tensor& out, const at::Tensor& in) {
  HostTensor whole(out);
  const HostTensor own(in);
  const auto n = static_cast<int64_t>(in.nbytes());
  std::vector<Bytes> recv;
  for (int r = 0; r < size(); ++r) recv.emplace_back(bytes_of(*whole) + r * n, n);
  const std::vector<ConstBytes> send(size(), ConstBytes(bytes_of(*own), n));
  agree(intent(Collective::all_gather, in));
  if (n > 0 && recv[rank()].data() != bytes_of(*own)) std::memcpy(recv[rank()].data(), bytes_of(*own), n);
  exchange(recv, send);
  whole.copy_back();
}

void ByteCommunicator::do_reduce_scatter(at::Tensor& out, const at::Tensor& in) {
  HostTensor sum(out);
  const HostTensor parts(in);
  agree(intent(Collective::reduce_scatter, in, static_cast<int64_t>(out.scalar_type())));
  reduce_own_part(bytes_of(*sum), out.scalar_type(), *parts, Reduce::sum);
  sum.copy_back();
}

void ByteCommunicator::do_all_reduce(at::Tensor& inout, Reduce op) {
  HostTensor whole(inout);
  agree(intent(Collective::all_reduce, inout, static_cast<int64_t>(op)));
  std::vector<Bytes> parts;
  for (int r = 0; r < size(); ++r) {
    const int64_t begin = cut(inout.numel(), size(), r), end = cut(inout.numel(), size(), r + 1);
    parts.emplace_back(bytes_of(*whole) + begin * inout.element_size(), (end - begin) * inout.element_size());
  }
  const Bytes own = parts[rank()];
  reduce_own_part(own.data(), inout.scalar_type(), *whole, op);
  exchange(parts, std::vector<ConstBytes>(size(), own));
  whole.copy_back();
}

void ByteCommunicator::do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                                     const std::vector<int64_t>& send) {
  HostTensor received(out);
  const HostTensor sent(in);
  std::vector<Bytes> to;
  std::vector<ConstBytes> from;
  std::byte* out_end = bytes_of(*received);
  const std::byte* in_end = bytes_of(*sent);
  for (int r = 0; r < size(); ++r) {
    to.emplace_back(out_end, recv[r] * row_bytes(out));
    from.emplace_back(in_end, send[r] * row_bytes(in));
    out_end += to[r].size();
    in_end += from[r].size();
  }
  // Numbers of rows may differ between ranks: a pair compares only what it exchanges.
  auto sizes = [](const auto& blocks) {
    std::vector<int64_t> bytes;
    for (const auto& block : blocks) bytes.push_back(static_cast<int64_t>(block.size()));
    return bytes;
  };
  agree(intent(Collective::all_to_all, in, row_bytes(in)), sizes(to), sizes(from));
  if (!to[rank()].empty()) std::memcpy(to[rank()].data(), from[rank()].data(), to[rank()].size());
  exchange(to, from);
  received.copy_back();
}

void ByteCommunicator::do_broadcast(at::Tensor& inout, int root) {
  HostTensor whole(inout);
  agree(intent(Collective::broadcast, inout, root));
  const Bytes all(bytes_of(*whole), inout.nbytes());
  std::vector<Bytes> recv(size());
  std::vector<ConstBytes> send(size());
  if (rank() == root) {
    std::fill(send.begin(), send.end(), ConstBytes(all));
  } else {
    recv[root] = all;
  }
  exchange(recv, send);
  if (rank() != root) whole.copy_back();
}

void ByteCommunicator::do_barrier() {
  // agree() returns when all ranks have called it: that is the barrier.
  agree({calls_++, static_cast<int64_t>(Collective::barrier), 0, 0, 0});
}

std::vector<std::vector<int64_t>> ByteCommunicator::gather_values(Collective kind, const std::vector<int64_t>& mine) {
  std::vector<std::vector<int64_t>> all(size(), std::vector<int64_t>(mine.size()));
  all[rank()] = mine;
  std::vector<Bytes> recv;
  for (auto& values : all) recv.push_back(std::as_writable_bytes(std::span(values)));
  const std::vector<ConstBytes> send(size(), std::as_bytes(std::span(mine)));
  agree({calls_++, static_cast<int64_t>(kind), 0, 0, 0});
  exchange(recv, send);
  return all;
}

std::unique_ptr<Communicator> ByteCommunicator::do_split(int color, int key, std::string name) {
  const auto color_and_key = gather_values(Collective::split, {color, key});
  Part part{color, 0, {}};
  for (int r = 0; r < size(); ++r)
    if (color_and_key[r][0] == color) part.members.push_back(r);
  std::ranges::stable_sort(part.members, {}, [&](int r) { return color_and_key[r][1]; });
  part.rank = static_cast<int>(std::ranges::find(part.members, rank()) - part.members.begin());
  return make_part(part, std::move(name));
}

/// Reduces part `rank` of the ranks' `in` into `out`. Parts are those of cut().
void ByteCommunicator::reduce_own_part(std::byte* out, at::ScalarType out_dtype, const at::Tensor& in, Reduce op) {
  const int64_t item = in.element_size(), out_item = c10::elementSize(out_dtype);
  const int64_t chunk = kChunkBytes / item;
  auto chunk_of = [&](int r, int64_t done) {  // the chunk of part r that begins at `done`
    const int64_t begin = cut(in.numel(), size(), r), end = cut(in.numel(), size(), r + 1);
    const int64_t first = std::min(begin + done, end);
    return ConstBytes(bytes_of(in) + first * item, std::min(chunk, end - first) * item);
  };
  const int64_t longest = ceil_div(in.numel(), size());
  const int64_t stride = std::min(longest, chunk) * item;
  if (std::ssize(staging_) < size() * stride) staging_.resize(size() * stride);
  for (int64_t done = 0; done < longest; done += chunk) {
    std::vector<Bytes> recv;
    std::vector<ConstBytes> send;
    std::vector<const std::byte*> parts;
    const ConstBytes own = chunk_of(rank(), done);
    for (int r = 0; r < size(); ++r) {
      send.push_back(chunk_of(r, done));
      recv.emplace_back(staging_.data() + r * stride, own.size());
      parts.push_back(r == rank() ? own.data() : recv[r].data());
    }
    exchange(recv, send);
    const auto n = static_cast<int64_t>(own.size()) / item;
    reduce_in_rank_order({out + done * out_item, out_dtype, n}, parts, in.scalar_type(), op);
  }
}

ByteCommunicator::Intent ByteCommunicator::intent(Collective kind, const at::Tensor& tensor, int64_t detail) {
  return {calls_++, static_cast<int64_t>(kind), static_cast<int64_t>(tensor.scalar_type()), detail,
          static_cast<int64_t>(tensor.nbytes())};
}

void ByteCommunicator::agree(Intent mine) {
  const std::vector<int64_t> bytes(size(), mine.bytes);
  agree(mine, bytes, bytes);
}

void ByteCommunicator::agree(Intent mine, const std::vector<int64_t>& recv_bytes,
                             const std::vector<int64_t>& send_bytes) {
  std::vector<Intent> sent(size(), mine), theirs(size(), mine);
  std::vector<Bytes> recv;
  std::vector<ConstBytes> send;
  for (int r = 0; r < size(); ++r) {
    sent[r].bytes = send_bytes[r];
    recv.push_back(std::as_writable_bytes(std::span(&theirs[r], 1)));
    send.push_back(std::as_bytes(std::span(&sent[r], 1)));
  }
  exchange(recv, send);
  for (int r = 0; r < size(); ++r) {
    mine.bytes = recv_bytes[r];
    ENSURE(r == rank() || theirs[r] == mine, "{}: ranks make different calls. Rank {} is in {}, rank {} is in {}",
           name(), rank(), describe(mine), r, describe(theirs[r]));
  }
}

std::string ByteCommunicator::describe(const Intent& intent) const {
  return fmt::format("call #{} {} ({}, {} bytes, detail {})", intent.call,
                     name_of(static_cast<Collective>(intent.kind)),
                     c10::toString(static_cast<at::ScalarType>(intent.dtype)), intent.bytes, intent.detail);
}

}  // namespace olmoe
