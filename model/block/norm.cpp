#include "model/block/norm.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/block/weight_grad.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::ScalarType statistics_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

struct NormFunction : Function<NormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias, const NormMethod& method) {
    const NormWeights weights{weight.value_or(at::Tensor()), bias.value_or(at::Tensor())};
    const auto out = normalize(x, weights, method);
    ctx->save_for_backward({x, weights.weight, weights.bias, out.statistics.mean, out.statistics.rstd});
    return out.y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {normalize_backward(grads[0], saved[0], {saved[3], saved[4]}, {saved[1], saved[2]}), {}, {}, {}};
  }
};

}  // namespace

Normalized normalize(const at::Tensor& x, const NormWeights& weights, NormMethod method) {
  auto wide = x.to(statistics_dtype(x));
  Normalized out;
  if (method.kind == NormKind::layer) {
    out.statistics.mean = wide.mean(-1, /*keepdim=*/true);
    wide = wide - out.statistics.mean;
  }
  out.statistics.rstd = (wide.square().mean(-1, /*keepdim=*/true) + method.eps).rsqrt();
  wide = wide * out.statistics.rstd;
  if (weights.weight.defined()) wide.mul_(weights.weight);
  if (weights.bias.defined()) wide.add_(weights.bias);
  out.y = wide.to(x.scalar_type());
  return out;
}

at::Tensor normalize_backward(const at::Tensor& dy, const at::Tensor& x, const NormStatistics& statistics,
                              const NormWeights& weights) {
  const auto& [mean, rstd] = statistics;
  auto normed = mean.defined() ? (x - mean).mul_(rstd) : x * rstd;
  auto dnormed = dy.to(statistics_dtype(x));
  if (weights.bias.defined()) weight_grad(weights.bias).add_(at::sum_to(dnormed, weights.bias.sizes()));
  if (weights.weight.defined()) {
    weight_grad(weights.weight).add_(at::sum_to(dnormed * normed, weights.weight.sizes()));
    dnormed = dnormed * weights.weight;
  }
  const auto along_x = (dnormed * normed).mean(-1, /*keepdim=*/true);
  auto dx = normed.mul_(along_x).neg_().add_(dnormed);  // in its memory
  if (mean.defined()) dx.sub_(dnormed.mean(-1, /*keepdim=*/true));
  return dx.mul_(rstd).to(x.scalar_type());
}

at::Tensor norm(const at::Tensor& x, const NormWeights& weights, NormMethod method) {
  return NormFunction::apply(x, std::optional(weights.weight), std::optional(weights.bias), method);
}

}  // namespace olmoe
