#include "model/layers.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/embedding.h"
#include "kernels/grouped_gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct EmbeddingFunction : Function<EmbeddingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& ids_N, const at::Tensor& w_VD) {
    ctx->save_for_backward({ids_N, w_VD});
    return kernels::embedding(ids_N, w_VD);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    kernels::embedding_backward(grads[0].contiguous(), saved[0], weight_grad(saved[1]));
    return {{}, {}};
  }
};

struct RmsNormFunction : Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& w_D, double eps) {
    auto out = kernels::rms_norm(x_ND, w_D, eps);
    ctx->save_for_backward({x_ND, w_D, out.rstd_N});
    return out.y_ND;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto dx = kernels::rms_norm_backward(grads[0].contiguous(), saved[0], saved[1], saved[2], weight_grad(saved[1]));
    return {dx, {}, {}};
  }
};

/// Outputs: the sum, in the memory of x, and its norm.
struct AddRmsNormFunction : Function<AddRmsNormFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& residual_ND,
                               const at::Tensor& w_D, double eps) {
    auto out = kernels::add_rms_norm(x_ND, residual_ND, w_D, eps);
    ctx->mark_dirty({x_ND});
    ctx->save_for_backward({x_ND, w_D, out.rstd_N});
    return {x_ND, out.y_ND};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const auto dsum = grads[0].defined() ? grads[0].contiguous() : grads[0];
    auto dx =
        kernels::rms_norm_backward(grads[1].contiguous(), saved[0], saved[1], saved[2], weight_grad(saved[1]), dsum);
    return {dx, dx, {}, {}};
  }
};

struct LinearFunction : Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_NI, const SavedNorm& saved_x,
                            const at::Tensor& w_OI) {
    ctx->save_for_backward({saved_x.x_ND, saved_x.norm_D, w_OI});
    ctx->saved_data["eps"] = saved_x.eps;
    return kernels::gemm(x_NI, w_OI);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const SavedNorm saved_x{saved[0], saved[1], ctx->saved_data["eps"].toDouble()};
    auto dy = grads[0].contiguous();
    kernels::gemm_weight_grad(dy, saved_x.recompute(), weight_grad(saved[2]));
    return {kernels::gemm_input_grad(dy, saved[2]), {}, {}};
  }
};

/// The hidden rows are not saved: the backward of SwiGLU computes them anyway.
struct SwigluLinearFunction : Function<SwigluLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& z_N2F, const std::optional<at::Tensor>& gate_N,
                            const at::Tensor& w_OF, const at::Tensor& residual_NO) {
    const auto gate = gate_N.value_or(at::Tensor());
    ctx->save_for_backward({z_N2F, gate, w_OF});
    return kernels::gemm(kernels::swiglu(z_N2F, gate), w_OF).add_(residual_NO);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto dy = grads[0].contiguous();
    auto d = kernels::swiglu_backward(kernels::gemm_input_grad(dy, saved[2]), saved[0], saved[1]);
    kernels::gemm_weight_grad(dy, d.h_RF, weight_grad(saved[2]));
    return {d.dz_R2F, d.dscore_R, {}, dy};
  }
};

struct CrossEntropyFunction : Function<CrossEntropyFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& w_VD,
                               const at::Tensor& targets_N, int64_t chunk, const kernels::LossSeed& seed) {
    auto out = kernels::linear_cross_entropy_with_grads(seed, x_ND, w_VD, targets_N, chunk, weight_grad(w_VD));
    ctx->save_for_backward({out.dx_ND, seed.value});
    if (!out.z.defined()) return {out.loss};
    ctx->mark_non_differentiable({out.z});
    return {out.loss, out.z};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    ENSURE(grads[0].is_alias_of(saved[1]), "cross entropy: the gradients were computed for another seed");
    return {saved[0], {}, {}, {}, {}};
  }
};

Normed normed(const at::Tensor& x_ND, const at::Tensor& y_ND, const at::Tensor& w_D, double eps,
              SavePolicy save_policy) {
  if (save_policy == SavePolicy::all) return unnormed(y_ND);
  return {y_ND, {x_ND.detach(), w_D, eps}};
}

}  // namespace

at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD) { return EmbeddingFunction::apply(ids_N, w_VD); }

at::Tensor SavedNorm::recompute() const { return norm_D.defined() ? kernels::rms_norm(x_ND, norm_D, eps).y_ND : x_ND; }

Normed rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps, SavePolicy save_policy) {
  return normed(x_ND, RmsNormFunction::apply(x_ND, w_D, eps), w_D, eps, save_policy);
}

NormedSum add_rms_norm(const at::Tensor& x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps,
                       SavePolicy save_policy) {
  const auto out = AddRmsNormFunction::apply(x_ND, residual_ND, w_D, eps);
  return {out[0], normed(out[0], out[1], w_D, eps, save_policy)};
}

Normed unnormed(const at::Tensor& x_ND) { return {x_ND, {x_ND.detach(), {}, 0}}; }

StageState Norm::state() {
  StageState out;
  if (config_.norm_affine == NormAffine::none) return out;
  out.params.push_back(shared_param(name_ + ".weight", {config_.d_model}, ParamRole::norm, weight_D_));
  if (config_.norm_affine == NormAffine::weight_and_bias)
    out.params.push_back(shared_param(name_ + ".bias", {config_.d_model}, ParamRole::bias, bias_D_));
  return out;
}

Normed Norm::forward(const at::Tensor& x_ND, SavePolicy save_policy) const {
  if (!is_composed()) return rms_norm(x_ND, weight_D_, config_.norm_eps, save_policy);
  return unnormed(norm(x_ND, {weight_D_, bias_D_}, method()));
}

NormedSum Norm::add(const at::Tensor& x_ND, const at::Tensor& residual_ND, SavePolicy save_policy) const {
  if (!is_composed()) return add_rms_norm(x_ND, residual_ND, weight_D_, config_.norm_eps, save_policy);
  auto sum_ND = x_ND;
  sum_ND.add_(residual_ND);
  return {sum_ND, forward(sum_ND, save_policy)};
}

Work Norm::work(const CostContext& context, int uses) const {
  const auto values = static_cast<double>(context.tokens() * config_.d_model);
  const auto rows = values * static_cast<double>(context.value_bytes);
  // A norm that is not saved is recomputed once for each weight that its rows are multiplied by.
  const double recomputed = context.save_policy == SavePolicy::selective ? 2 * uses : 0;
  if (!is_composed()) return memory_work("norms", 2 * rows, (3 + recomputed) * rows);
  // Each operator reads and writes rows of at least fp32: widening, square, mean, scale, weight; twice that backward.
  const auto wide = values * static_cast<double>(context.master_bytes);
  return memory_work("norms", 2 * rows + 8 * wide, 3 * rows + 16 * wide);
}

int64_t Norm::statistics_bytes(const CostContext& context) const {
  return context.tokens() * context.master_bytes * (config_.norm == NormKind::layer ? 2 : 1);
}

int64_t Norm::saved_bytes(const CostContext& context) const {
  const bool recomputes = !is_composed() && context.save_policy == SavePolicy::selective;
  return statistics_bytes(context) + (recomputes ? 0 : context.tokens() * config_.d_model * context.value_bytes);
}

int64_t Norm::backward_bytes(const CostContext& context) const {
  const int64_t values = context.tokens() * config_.d_model;
  if (!is_composed()) return values * context.value_bytes;
  // The normed rows, their gradient, and the product of both; without a weight the gradient is dy where that is as
  // wide.
  const bool shares_dy = config_.norm_affine == NormAffine::none && context.value_bytes == context.master_bytes;
  return (shares_dy ? 2 : 3) * values * context.master_bytes;
}

at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& w_OI) {
  return LinearFunction::apply(x_NI, SavedNorm{x_NI.detach(), {}, 0}, w_OI);
}

at::Tensor linear(const Normed& x, const at::Tensor& w_OI) { return LinearFunction::apply(x.y_ND, x.saved, w_OI); }

at::Tensor swiglu_linear(const at::Tensor& z_N2F, const at::Tensor& w_OF, const at::Tensor& residual_NO,
                         const std::optional<at::Tensor>& gate_N) {
  return SwigluLinearFunction::apply(z_N2F, gate_N, w_OF, residual_NO);
}

LossSums linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                              int64_t chunk, const kernels::LossSeed& seed) {
  if (!seed.value.defined()) return {kernels::linear_cross_entropy(x_ND, w_VD, targets_N, chunk), {}};
  const auto out = CrossEntropyFunction::apply(x_ND, w_VD, targets_N, chunk, seed);
  return {out[0], out.size() > 1 ? out[1] : at::Tensor()};
}

}  // namespace olmoe
