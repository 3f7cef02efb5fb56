#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Collectives over host memory, built from one primitive: an exchange of bytes between all pairs of ranks. Reductions
/// are an exchange and a sum in rank order, so back ends derived from this class agree bit for bit. Tensors on a GPU go
/// through pinned copies (host_tensor.h) and the host waits for them, so that ranks may share a GPU. Before data is
/// sent, the ranks compare their calls: different calls, dtypes or sizes throw an Error that names both sides.
class ByteCommunicator : public Communicator {
 public:
  using Communicator::Communicator;

 protected:
  using Bytes = std::span<std::byte>;
  using ConstBytes = std::span<const std::byte>;

  /// The position of this rank in a group that is split off.
  struct Part {
    int color;
    int rank;                  ///< of this rank in the new group
    std::vector<int> members;  ///< ranks of this group in the order of the new one
  };
  /// The values of every rank, in rank order. Collective over this group; all pass equally many.
  std::vector<std::vector<int64_t>> gather_values(Collective kind, const std::vector<int64_t>& mine);

 private:
  /// The new group of `part`. Called on every rank of this group.
  virtual std::unique_ptr<Communicator> make_part(const Part& part, std::string name) = 0;
  /// The call that a rank is about to make, as it concerns one peer.
  struct Intent {
    int64_t call, kind, dtype, detail, bytes;
    bool operator==(const Intent&) const = default;
  };

  /// send[r] goes to rank r, recv[r] comes from it: sizes agree, and nothing is sent from a rank to itself. When it
  /// returns, `recv` is filled and `send` may be written again.
  virtual void exchange(std::span<const Bytes> recv, std::span<const ConstBytes> send) = 0;

  void do_all_gather(at::Tensor& out, const at::Tensor& in) final;
  void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) final;
  void do_all_reduce(at::Tensor& inout, Reduce op) final;
  void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                     const std::vector<int64_t>& send) final;
  void do_broadcast(at::Tensor& inout, int root) final;
  void do_barrier() final;
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) final;

  Intent intent(Collective kind, const at::Tensor& tensor, int64_t detail = 0);
  // Throws on each rank with a peer that is in another call, or is about to send it another number of bytes.
  void agree(Intent mine);
  void agree(Intent mine, const std::vector<int64_t>& recv_bytes, const std::vector<int64_t>& send_bytes);
  void reduce_own_part(std::byte* out, at::ScalarType out_dtype, const at::Tensor& in, Reduce op);
  std::string describe(const Intent& intent) const;

  int64_t calls_ = 0;
  std::vector<std::byte> staging_;  ///< in a reduction, a received chunk of each peer
};

}  // namespace olmoe
