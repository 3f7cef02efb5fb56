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

struct LinearFunction : Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_NI, const at::Tensor& w_OI,
                            const std::optional<at::Tensor>& residual_NO) {
    ctx->save_for_backward({x_NI, w_OI});
    ctx->saved_data["residual"] = residual_NO.has_value();
    auto y = kernels::gemm(x_NI, w_OI);
    return residual_NO ? y.add_(*residual_NO) : y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto dy = grads[0].contiguous();
    kernels::gemm_weight_grad(dy, saved[0], weight_grad(saved[1]));
    return {kernels::gemm_input_grad(dy, saved[1]), {}, ctx->saved_data["residual"].toBool() ? dy : at::Tensor()};
  }
};

struct SwigluFunction : Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& z_N2F) {
    ctx->save_for_backward({z_N2F});
    return kernels::swiglu(z_N2F, {});
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    return {kernels::swiglu_backward(grads[0].contiguous(), saved[0], {}).dz_R2F};
  }
};

struct CrossEntropyFunction : Function<CrossEntropyFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& w_VD,
                            const at::Tensor& targets_N, int64_t chunk) {
    ctx->save_for_backward({x_ND, w_VD, targets_N});
    ctx->saved_data["chunk"] = chunk;
    return kernels::linear_cross_entropy(x_ND, w_VD, targets_N, chunk);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto dx = kernels::linear_cross_entropy_backward(grads[0], saved[0], saved[1], saved[2],
                                                     ctx->saved_data["chunk"].toInt(), weight_grad(saved[1]));
    return {dx, {}, {}, {}};
  }
};

}  // namespace

at::Tensor weight_grad(const at::Tensor& weight) {
  auto grad = weight.grad();
  ENSURE(grad.defined(), "a weight of {} elements has no gradient buffer: bind its unit first", weight.numel());
  return grad;
}

at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD) { return EmbeddingFunction::apply(ids_N, w_VD); }

at::Tensor rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps) {
  return RmsNormFunction::apply(x_ND, w_D, eps);
}

at::Tensor linear(const at::Tensor& x_NI, const at::Tensor& w_OI, const std::optional<at::Tensor>& residual_NO) {
  return LinearFunction::apply(x_NI, w_OI, residual_NO);
}

at::Tensor swiglu(const at::Tensor& z_N2F) { return SwigluFunction::apply(z_N2F); }

at::Tensor linear_cross_entropy(const at::Tensor& x_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                int64_t chunk) {
  return CrossEntropyFunction::apply(x_ND, w_VD, targets_N, chunk);
}

}  // namespace olmoe
