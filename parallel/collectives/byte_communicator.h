#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Collectives over host memory, built from one primitive: an exchange of bytes between all pairs
/// of ranks. Reductions are an exchange and a sum in rank order, so back ends derived from this
/// class agree bit for bit. Tensors on a GPU go through pinned copies (host_tensor.h) and wait for
/// the GPU, so that ranks may share one. Before data moves, the ranks compare what they are about
/// to do: different calls, dtypes or sizes throw an Error that names both sides.
class ByteCommunicator : public Communicator {
 public:
  using Communicator::Communicator;

 protected:
  using Bytes = std::span<std::byte>;
  using ConstBytes = std::span<const std::byte>;

  /// Every rank's copy of `mine`, in rank order. Serves split.
  std::vector<std::vector<int64_t>> gather_values(Collective kind, const std::vector<int64_t>& mine);

 private:
  /// What a rank is about to do with a peer.
  struct Intent {
    int64_t call, kind, dtype, detail, bytes;
    bool operator==(const Intent&) const = default;
  };

  /// send[r] goes to rank r, recv[r] comes from it: sizes agree, and nothing is moved from a rank
  /// to itself. When it returns, `recv` is filled and `send` may be written again.
  virtual void exchange(std::span<const Bytes> recv, std::span<const ConstBytes> send) = 0;

  void do_all_gather(at::Tensor& out, const at::Tensor& in) final;
  void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) final;
  void do_all_reduce(at::Tensor& inout, Reduce op) final;
  void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                     const std::vector<int64_t>& send) final;
  void do_broadcast(at::Tensor& inout, int root) final;
  void do_barrier() final;

  Intent intent(Collective kind, const at::Tensor& tensor, int64_t detail = 0);
  // Throws on each rank whose peers are in another call, or mean to pass it another number of
  // bytes.
  void agree(Intent mine);
  void agree(Intent mine, const std::vector<int64_t>& recv_bytes, const std::vector<int64_t>& send_bytes);
  void reduce_own_part(std::byte* out, at::ScalarType out_dtype, const at::Tensor& in, Reduce op);
  std::string describe(const Intent& intent) const;

  int64_t calls_ = 0;
  std::vector<std::byte> staging_;  ///< what the peers send of a reduction, one chunk for each
};

}  // namespace olmoe
