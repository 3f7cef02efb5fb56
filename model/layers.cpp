#include "model/layers.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/cross_entropy.h"
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
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& w_VD,
                            const at::Tensor& targets_N, int64_t chunk, const at::Tensor& seed) {
    auto out = kernels::linear_cross_entropy_with_grads(seed, x_ND, w_VD, targets_N, chunk, weight_grad(w_VD));
    ctx->save_for_backward({out.dx_ND, seed});
    return out.loss;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    ENSURE(grads[0].is_alias_of(saved[1]), "cross entropy: the gradients were computed for another seed");
    return {saved[0], {}, {}, {}, {}};
  }
};

Normed normed(const at::Tensor& x_ND, const at::Tensor& y_ND, const at::Tensor& w_D, double eps,
              SavePolicy save_policy) {
  if (save_policy == SavePolicy::all) return {y_ND, {y_ND.detach(), {}, 0}};
  return {y_ND, {x_ND.detach(), w_D, eps}};
}

}  // namespace

at::Tensor weight_grad(const at::Tensor& weight) {
  auto grad = weight.grad();
  ENSURE(grad.defined(), "a weight of {} elements has no gradient buffer: bind its unit first", weight.numel());
  return grad;
}

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

at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& w_OI) {
  return LinearFunction::apply(x_NI, SavedNorm{x_NI.detach(), {}, 0}, w_OI);
}

at::Tensor linear(const Normed& x, const at::Tensor& w_OI) { return LinearFunction::apply(x.y_ND, x.saved, w_OI); }

at::Tensor swiglu_linear(const at::Tensor& z_N2F, const at::Tensor& w_OF, const at::Tensor& residual_NO,
                         const std::optional<at::Tensor>& gate_N) {
  return SwigluLinearFunction::apply(z_N2F, gate_N, w_OF, residual_NO);
}

at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk, const at::Tensor& seed) {
  if (!seed.defined()) return kernels::linear_cross_entropy(x_ND, w_VD, targets_N, chunk);
  return CrossEntropyFunction::apply(x_ND, w_VD, targets_N, chunk, seed);
}

}  // namespace olmoe
