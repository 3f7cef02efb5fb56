// Shapes: N tokens of this rank, K experts a token, E experts; P ranks share them, e = E/P on each; S copies of tokens
// that this rank sends, M that it receives, R assignments of received tokens to its experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/permute.h"
#include "parallel/row_exchange.h"

namespace olmoe {

/// Copies of tokens that one rank sent to other ranks, and received from them.
struct TokenCopies {
  int64_t sent = 0, received = 0;
};

/// The way of tokens to the ranks of their experts. A token goes to a rank once, however many experts it chose there.
struct DispatchPlan {
  /// [S] sorted by rank; a copy is the first of its token's assignments to the rank's experts.
  kernels::Permutation copies;
  RowCounts counts;            ///< copies to and from each rank; empty where all experts are here
  TokenCopies exchanged = {};  ///< of these, with other ranks
  kernels::Permutation rows;   ///< [R] assignments of the M received tokens (or of the N own ones) sorted by expert
};

/// The choice of experts of one stage and micro-batch. Written by the first forward, only read afterwards.
struct Routing {
  at::Tensor ids_NK;                ///< int32
  at::Tensor balance_counts_GE;     ///< int64 assignments that the load-balancing loss is about; G groups of tokens
  at::Tensor dropped;               ///< float64 scalar: assignments that found no room in their expert
  std::vector<DispatchPlan> plans;  ///< of each chunk of tokens
};

}  // namespace olmoe
