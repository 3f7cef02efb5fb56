// Shapes: S rows that this rank sends, M rows that it receives; [S, ...] and [M, ...] have equal trailing dims.
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

/// The all_to_all of rows as autograd sees it, in two halves: `start` sends, `wait` gives what arrived. What the caller
/// computes between the two hides the way, on a side stream where the device has one. Backward mirrors it: the gradient
/// of `wait` starts the way back, that of `start` waits for it. The engine runs what was recorded last first, so ranks
/// that record alike make their backward's calls in the same order.
class RowExchange {
 public:
  RowExchange(Communicator& group, c10::Device device, Overlap overlap);

  /// Rows that are on their way.
  class Flight;
  struct Started {
    at::Tensor stand_in;  ///< [S, ...], without memory of its own: it carries the graph, no values
    std::shared_ptr<Flight> flight;
  };
  /// Sends rows [S, ...], sorted by rank; they stay alive until they are waited for. Collective over the group.
  Started start(const at::Tensor& rows, const RowCounts& counts);
  /// The rows [M, ...] that arrived, in rank order.
  at::Tensor wait(const Started& started);

  Communicator& group() { return link_->group; }

 private:
  friend class Flight;
  struct Link {
    Communicator& group;
    SideStream stream;
  };
  std::shared_ptr<Link> link_;  ///< shared with flights, which a graph may keep for longer than this lives
};

}  // namespace olmoe
