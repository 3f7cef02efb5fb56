#include "bench/step_parts.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

namespace olmoe::bench {
namespace {

using at::Tensor;

/// Makes the parts of one model and batch. The closures own their operands.
class Parts {
 public:
  Parts(const ModelConfig& model, BatchShape batch, at::ScalarType dtype)
      : model_(model), batch_(batch), dtype_(dtype), N_(batch.tokens()), D_(model.d_model), L_(model.num_layers) {}

  std::vector<Part> make() {
    add_embedding();
    add_norms();
    add_linear("qkv projection", L_, D_, model_.qkv_width(), dtype_);
    add_rotary();
    add_attention();
    add_linear("output projection", L_, D_, D_, dtype_);
    add_linear("router projection", L_, D_, model_.num_experts,
               model_.router_dtype == RouterDtype::float32 ? at::kFloat : dtype_);
    add_routing();
    add_rows();
    add_grouped("experts, gate and up", D_, 2 * model_.expert_width);
    add_swiglu();
    add_grouped("experts, down", model_.expert_width, D_);
    add_sums();
    add_head();
    return std::move(parts_);
  }

 private:
  Tensor tensor(at::IntArrayRef sizes) const { return normal(sizes, dtype_); }
  void add(std::string name, int64_t count, std::function<void()> run, std::function<void()> floor = {}) {
    parts_.push_back({std::move(name), count, std::move(run), std::move(floor)});
  }

  void add_embedding() {
    auto ids_N = at::empty({N_}, at::kLong).random_(0, model_.vocab_size);
    auto w_VD = tensor({model_.vocab_size, D_}), dx_ND = tensor({N_, D_}), dw_VD = at::zeros(w_VD.sizes());
    add("embedding", 1, [=] {
      kernels::embedding(ids_N, w_VD);
      kernels::embedding_backward(dx_ND, ids_N, dw_VD);
    });
  }

  void add_norms() {
    auto x_ND = tensor({N_, D_}), dy_ND = tensor({N_, D_}), w_D = tensor({D_}), dw_D = at::zeros({D_});
    add("RMSNorm", 2 * L_ + 1, [=, eps = model_.norm_eps] {
      kernels::rms_norm_backward(dy_ND, x_ND, w_D, kernels::rms_norm(x_ND, w_D, eps).rstd_N, dw_D);
    });
  }

  void add_linear(const std::string& name, int64_t count, int64_t inputs, int64_t outputs, at::ScalarType dtype) {
    auto x_NI = normal({N_, inputs}, dtype), w_OI = normal({outputs, inputs}, dtype);
    auto dy_NO = normal({N_, outputs}, dtype), dw_OI = at::zeros({outputs, inputs});
    add(
        name + ", forward", count, [=] { kernels::gemm(x_NI, w_OI); },
        [=, y = at::empty_like(dy_NO)]() mutable { at::mm_out(y, x_NI, w_OI.t()); });
    add(
        name + ", input gradient", count, [=] { kernels::gemm_input_grad(dy_NO, w_OI); },
        [=, dx = at::empty_like(x_NI)]() mutable { at::mm_out(dx, dy_NO, w_OI); });
    add(
        name + ", weight gradient", count, [=] { kernels::gemm_weight_grad(dy_NO, x_NI, dw_OI); },
        [=, dw = at::empty_like(w_OI)]() mutable { at::mm_out(dw, dy_NO.t(), x_NI); });
  }

  void add_rotary() {
    auto qkv_NC = tensor({N_, model_.qkv_width()}), dqkv_NC = at::empty_like(qkv_NC);
    auto q_ND = qkv_NC.narrow(1, 0, D_), dq_ND = dqkv_NC.narrow(1, 0, D_);
    auto dy_ND = tensor({N_, D_}), w_D = tensor({D_}), dw_D = at::zeros({D_});
    auto table_Sd = kernels::rotary_table(batch_.length, model_.head_dim(), model_.rope_theta, at::kFloat);
    add("QK-norm and rotary", 2 * L_, [=, eps = model_.norm_eps, clip = model_.clip_qkv] {
      auto out = kernels::norm_rotary({q_ND, w_D, table_Sd, clip}, eps);
      kernels::norm_rotary_backward(dy_ND, {q_ND, w_D, table_Sd, clip}, out.rstd_N, dq_ND, dw_D);
    });
  }

  void add_attention() {
    const int64_t B = batch_.sequences, S = batch_.length, H = model_.num_heads, d = model_.head_dim();
    auto q = tensor({B, S, H, d}), k = tensor({B, S, H, d}), dy = tensor({B, S, H, d});
    auto qkv = tensor({B, S, 3 * H, d}), dqkv = at::empty_like(qkv), v = qkv.narrow(2, 2 * H, H);
    const kernels::Qkv in{q, k, v}, grads{dqkv.narrow(2, 0, H), dqkv.narrow(2, H, H), dqkv.narrow(2, 2 * H, H)};
    auto forward = kernels::causal_attention(in);
    auto by_head = [](const Tensor& x) { return x.transpose(1, 2).contiguous(); };
    auto q_h = by_head(q), k_h = by_head(k), v_h = by_head(v), dy_h = by_head(dy);
    auto [y_h, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q_h, k_h, v_h, 0.0, true);
    add(
        "attention, forward", L_, [=] { kernels::causal_attention(in); },
        [=] { at::_scaled_dot_product_flash_attention_for_cpu(q_h, k_h, v_h, 0.0, true); });
    add(
        "attention, backward", L_, [=] { kernels::causal_attention_backward(dy, in, forward, grads); },
        [=, y = y_h, lse_BHS = lse] {
          at::_scaled_dot_product_flash_attention_for_cpu_backward(dy_h, q_h, k_h, v_h, y, lse_BHS, 0.0, true);
        });
  }

  void add_routing() {
    auto logits_NE = normal({N_, model_.num_experts}, at::kFloat), dscores_NK = normal({N_, model_.top_k}, at::kFloat);
    auto dprobs_UE = normal({1, model_.num_experts}, at::kFloat);
    routed_ = kernels::route(logits_NE, model_.top_k, 1, model_.renormalize_scores, {});
    permutation_ = kernels::sort_by_expert(routed_.ids_NK, model_.num_experts);
    add("routing", L_, [=, routed = routed_, top_k = model_.top_k, renormalize = model_.renormalize_scores] {
      kernels::route(logits_NE, top_k, 1, renormalize, {});
      kernels::route_backward(dscores_NK, dprobs_UE, at::full({}, 0.1, at::kDouble), routed, renormalize);
    });
  }

  void add_rows() {
    auto x_ND = tensor({N_, D_}), y_RD = tensor({N_ * model_.top_k, D_});
    auto dscores_R = normal({N_ * model_.top_k}, at::kFloat);
    add("sort by expert", L_, [=, routed = routed_, num_experts = model_.num_experts] {
      auto permutation = kernels::sort_by_expert(routed.ids_NK, num_experts);
      kernels::to_rows(routed.scores_NK, permutation);
      kernels::to_assignments(dscores_R, permutation);
    });
    add("gather rows", 3 * L_, [=, permutation = permutation_] { kernels::gather_rows(x_ND, permutation); });
    add("combine rows, forward", L_,
        [=, permutation = permutation_] { kernels::combine_rows(y_RD, permutation, x_ND); });
    add("combine rows, backward", L_,
        [=, permutation = permutation_] { kernels::combine_rows(y_RD, permutation, {}); });
  }

  void add_grouped(const std::string& name, int64_t inputs, int64_t outputs) {
    const int64_t E = model_.num_experts, R = N_ * model_.top_k;
    auto x_RI = tensor({R, inputs}), dy_RO = tensor({R, outputs}), w_EOI = tensor({E, outputs, inputs});
    auto dw_EOI = at::zeros(w_EOI.sizes());
    auto offsets_E = permutation_.offsets_E;
    add(
        name + ", forward", L_, [=] { kernels::grouped_gemm(x_RI, w_EOI, offsets_E); },
        [=] { at::_grouped_mm(x_RI, w_EOI.transpose(1, 2), offsets_E); });
    add(
        name + ", input gradient", L_, [=] { kernels::grouped_gemm_input_grad(dy_RO, w_EOI, offsets_E); },
        [=] { at::_grouped_mm(dy_RO, w_EOI, offsets_E); });
    add(
        name + ", weight gradient", L_, [=] { kernels::grouped_gemm_weight_grad(dy_RO, x_RI, offsets_E, dw_EOI); },
        [=] { at::_grouped_mm(dy_RO.t(), x_RI, offsets_E); });
  }

  void add_swiglu() {
    const int64_t R = N_ * model_.top_k, F = model_.expert_width;
    auto z_R2F = tensor({R, 2 * F}), dh_RF = tensor({R, F}), score_R = normal({R}, at::kFloat);
    add("SwiGLU, forward", L_, [=] { kernels::swiglu(z_R2F, score_R); });
    add("SwiGLU, backward", L_, [=] { kernels::swiglu_backward(dh_RF, z_R2F, score_R); });
  }

  /// The residual of the attention, and autograd's sums of gradients of activations that are used twice (x, mid, normed
  /// mid).
  void add_sums() {
    auto x_ND = tensor({N_, D_}), y_ND = tensor({N_, D_});
    add("sums of activations", 4 * L_, [=]() mutable { y_ND.add_(x_ND); });
  }

  void add_head() {
    const int64_t V = model_.vocab_size;
    // Weights as small as a model's, otherwise probabilities are subnormal numbers, which are slow.
    auto x_ND = tensor({N_, D_}), w_VD = tensor({V, D_}).mul_(0.02), dw_VD = at::zeros({V, D_});
    auto targets_N = at::empty({N_}, at::kLong).random_(0, V);
    auto logits_NV = tensor({N_, V}), dw = at::empty_like(w_VD), dx = at::empty_like(x_ND);
    add(
        "head and loss", 1,
        [=, chunk = model_.loss_chunk] {
          const auto seed = at::full({}, 1e-3, at::kDouble);
          kernels::linear_cross_entropy_with_grads(seed, x_ND, w_VD, targets_N, chunk, dw_VD);
        },
        [=]() mutable {
          at::mm_out(logits_NV, x_ND, w_VD.t());
          at::mm_out(dx, logits_NV, w_VD);
          at::mm_out(dw, logits_NV.t(), x_ND);
        });
  }

  const ModelConfig& model_;
  const BatchShape batch_;
  const at::ScalarType dtype_;
  const int64_t N_, D_, L_;
  kernels::RouterOutput routed_;
  kernels::Permutation permutation_;
  std::vector<Part> parts_;
};

}  // namespace

at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype) {
  static at::Generator generator = at::detail::createCPUGenerator(1);
  return at::empty(sizes, at::kFloat).normal_(0, 1, generator).to(dtype);
}

std::vector<Part> model_parts(const ModelConfig& model, BatchShape batch, at::ScalarType dtype) {
  return Parts(model, batch, dtype).make();
}

}  // namespace olmoe::bench
