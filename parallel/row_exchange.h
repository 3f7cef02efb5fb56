// Shapes: X rows that this rank sends, M rows that it receives; [X, ...] and [M, ...] have equal trailing dims.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "parallel/collectives/communicator.h"
#include "parallel/side_stream.h"

namespace olmoe {

/// Rows to and from each rank of a group, in rank order.
struct RowCounts {
  std::vector<int64_t> send, recv;
};

class RowTransfer;  // the buffers of one exchange, in row_exchange.cpp

/// An exchange that was started and not waited for.
struct PendingExchange {
  at::Tensor placeholder;  ///< [X, ...] without memory: it carries the autograd graph, no values
  std::shared_ptr<RowTransfer> transfer;
};

/// The all_to_all of rows in two halves, each an autograd Function: start() sends, wait() returns what was received.
/// What the caller computes between the two overlaps the exchange, if the device has side streams. Backward mirrors it:
/// the backward of wait() starts the exchange of the gradients, that of start() waits for it. Autograd runs the last
/// recorded function first, so ranks that record in the same order make their calls in backward in the same order.
class RowExchange {
 public:
  RowExchange(Communicator& group, c10::Device device, Overlap overlap);

  /// Starts to send `rows` [X, ...] of any dtype, sorted by destination rank; they are kept alive until wait().
  /// `counts` add up to X and M, or the communicator throws Error. Collective over the group.
  PendingExchange start(const at::Tensor& rows, const RowCounts& counts);
  /// The received rows [M, ...], sorted by the rank that they came from. Throws Error if `pending` was waited for
  /// already.
  at::Tensor wait(const PendingExchange& pending);

  Communicator& group() { return link_->group; }

 private:
  friend class RowTransfer;
  struct Link {
    Communicator& group;
    SideStream stream;
  };
  std::shared_ptr<Link> link_;  ///< shared with transfers, which a graph may keep for longer than this lives
};

}  // namespace olmoe
