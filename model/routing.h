// Shapes: N tokens of this rank, K experts per token, E experts; P ranks share them, e = E/P on each; X copies of
// tokens that this rank dispatches, M that it receives, R assignments of received tokens to its experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/permute.h"
#include "parallel/row_exchange.h"

namespace olmoe {

/// Copies of tokens that a rank sent to other ranks, and received from them.
struct TokenCopies {
  int64_t sent = 0, received = 0;
};

/// How a chunk of tokens is dispatched. A token is sent to a rank once, however many experts it chose there.
struct DispatchPlan {
  /// [X] sorted by destination rank; a copy is the first assignment of its token to an expert of that rank.
  kernels::Permutation copies;
  RowCounts counts;            ///< copies to and from each rank; empty if this rank has all experts
  TokenCopies exchanged = {};  ///< those of them to and from other ranks
  kernels::Permutation rows;   ///< [R] assignments of the M received tokens (or of the N own ones) sorted by expert
};

/// What a forward without a backward notes of the layers with experts, in their order: only where one is asked for.
struct RoutingProbe {
  bool output_peaks = false;           ///< note peaks_E too, for which the experts compute twice
  std::vector<at::Tensor> experts_NK;  ///< int32
  std::vector<at::Tensor> gates_NK;    ///< what the experts' outputs are multiplied by; fp32 or float64
  std::vector<at::Tensor> peaks_E;     ///< float64: the largest magnitude that each expert's down-projection gives
                                       ///< without its gate, of the tokens that this rank computes; else 0
};

/// The choice of experts of one stage and micro-batch. Written by the first forward, read by a recomputed one.
struct Routing {
  at::Tensor ids_NK;                ///< int32
  at::Tensor balance_counts_UE;     ///< int64 assignments of the load-balancing loss; U groups of tokens
  at::Tensor dropped;               ///< float64 scalar: assignments beyond capacity; undefined if dropless
  std::vector<DispatchPlan> plans;  ///< of each chunk of tokens
};

}  // namespace olmoe
