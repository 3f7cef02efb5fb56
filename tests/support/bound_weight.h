// A weight as a sharded unit binds it.
#pragma once
#include <ATen/ATen.h>

namespace olmoe::test {

/// A leaf of `dtype` with a gradient buffer of ones in at least fp32, to which a backward adds.
inline at::Tensor bound_weight(const at::Tensor& values, at::ScalarType dtype) {
  const auto master = dtype == at::kDouble ? at::kDouble : at::kFloat;
  auto weight = values.to(dtype).detach().clone().set_requires_grad(true);
  weight.set_grad_dtype(master);
  weight.mutable_grad() = at::ones(values.sizes(), master);
  return weight;
}

}  // namespace olmoe::test
