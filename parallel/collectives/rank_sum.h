// Shapes: P ranks, n elements of a part.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Throws an Error that begins with `call` unless `in` can be reduced into `out`: both the same of float64, float32,
/// bfloat16, int64 and int32, or a floating type into a wider one.
void check_reducible(at::ScalarType in, at::ScalarType out, const std::string& call);

/// A typed array in host memory.
struct HostArray {
  std::byte* data;
  at::ScalarType dtype;
  int64_t numel;
};

/// out = ((part 0 op part 1) op part 2) ..., each part first widened to out's dtype: the definition of a reduction over
/// ranks. Each of `parts` has out.numel elements of `dtype`; `out` may be one of them. Throws Error for dtypes that
/// check_reducible() refuses.
void reduce_in_rank_order(HostArray out, std::span<const std::byte* const> parts, at::ScalarType dtype, Reduce op);

/// The same for sum and the rows of parts_Pn, on any device: out [n]. Throws Error for dtypes that
/// check_reducible() refuses.
void sum_in_rank_order(const at::Tensor& out, const at::Tensor& parts_Pn);

}  // namespace olmoe
