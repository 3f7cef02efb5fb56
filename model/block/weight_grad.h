#pragma once
#include <ATen/core/Tensor.h>

namespace olmoe {

/// The gradient buffer of a weight, of the same shape. Throws Error if none was bound.
at::Tensor weight_grad(const at::Tensor& weight);

}  // namespace olmoe
