#include "model/block/weight_grad.h"

#include "core/error.h"

namespace olmoe {

at::Tensor weight_grad(const at::Tensor& weight) {
  auto grad = weight.grad();
  ENSURE(grad.defined(), "a weight of {} elements has no gradient buffer: bind its unit first", weight.numel());
  return grad;
}

}  // namespace olmoe
