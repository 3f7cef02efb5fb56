// Shapes: W ranks, N elements of a part.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Throws an Error that begins with `call` unless `in` can be reduced into `out`: equal float64,
/// float32, bfloat16, int64 or int32, or a floating type into a wider one.
void check_reducible(at::ScalarType in, at::ScalarType out, const std::string& call);

/// A typed array in host memory.
struct HostArray {
  std::byte* data;
  at::ScalarType dtype;
  int64_t numel;
};

/// out = ((part 0 op part 1) op part 2) ..., each part widened to out's dtype first: the one
/// definition of a sum over ranks. `parts` hold out.numel elements of `dtype`; out may be one of
/// them.
void reduce_in_rank_order(HostArray out, std::span<const std::byte* const> parts, at::ScalarType dtype, Reduce op);

/// The same sum of the rows of parts [W, N], on whatever device they are, into out of N elements.
void sum_in_rank_order(const at::Tensor& out, const at::Tensor& parts_WN);

}  // namespace olmoe
