#include "model/block/output_gate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>
#include <torch/csrc/autograd/custom_function.h>

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor sigmoid_of(const at::Tensor& z_NW) {
  return at::sigmoid(z_NW.to(z_NW.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
}

struct OutputGateFunction : Function<OutputGateFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& y_NW, const at::Tensor& z_NW) {
    ctx->save_for_backward({y_NW, z_NW});
    return sigmoid_of(z_NW).mul_(y_NW).to(y_NW.scalar_type());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &dout_NW = grads[0], &y_NW = saved[0];
    const auto gate_NW = sigmoid_of(saved[1]);
    const auto dy_NW = (gate_NW * dout_NW).to(y_NW.scalar_type());
    auto dz_NW = (1 - gate_NW).mul_(gate_NW).mul_(dout_NW).mul_(y_NW);
    return {dy_NW, dz_NW.to(y_NW.scalar_type())};
  }
};

}  // namespace

at::Tensor output_gate(const at::Tensor& y_NW, const at::Tensor& z_NW) { return OutputGateFunction::apply(y_NW, z_NW); }

}  // namespace olmoe
