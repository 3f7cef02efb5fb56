// The CUDA side of the kernels: X.cu defines what X.cpp calls for tensors on a GPU. X.cpp has checked the operands,
// made their rows dense and allocated the results; shapes, dtypes and meaning are those of X.h. Work is enqueued on the
// current stream of the operands' device, without host syncs. In a build without CUDA, without_gpu.cpp defines all of
// these functions, and each throws Error.
#pragma once
#include <ATen/core/Tensor.h>

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

namespace olmoe::kernels {

/// Operands and statistics of the forward, for its backward.
struct RmsNormForward {
  at::Tensor x_ND, w_D, rstd_N;
};
/// Gradients of the router's outputs: dprobs_UE may be undefined (zero), lse_scale is a float64 scalar.
struct RouterGrads {
  at::Tensor dscores_NK, dprobs_UE, lse_scale;
};
/// Of a chunk of N tokens, float64; zero where the target is ignored.
struct RowLosses {
  at::Tensor losses_N;
  at::Tensor squares_N;  ///< of logsumexp; undefined: not wanted
  double z_weight;       ///< LossSeed::z_weight
};

namespace cuda {

/// A residual, if defined, is first added to x in place.
void rms_norm(const at::Tensor& x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps, RmsNorm& out);
/// Writes dx_ND, dx_residual added if defined; adds to dw_D, rows in a fixed order.
void rms_norm_backward(const at::Tensor& dy_ND, const at::Tensor& dx_residual_ND, const RmsNormForward& forward,
                       at::Tensor& dx_ND, at::Tensor& dw_D);

void norm_rotary(const NormRotaryOperands& in, double eps, NormRotary& out);
void norm_rotary_backward(const at::Tensor& dy_NW, const NormRotaryOperands& in, const at::Tensor& rstd_N,
                          at::Tensor& dx_NW, at::Tensor& dw_W);

AttentionOutput causal_attention(const Qkv& in, const AttentionMask& mask);
void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                               const Qkv& grads, bool deterministic, const AttentionMask& mask);

/// `choose`: out.ids_NK is computed, else it is given. out.counts_UE must be zero before.
void route(const at::Tensor& logits_NE, bool choose, bool renormalize, RouterOutput& out);
void route_backward(const RouterGrads& grads, const RouterOutput& forward, bool renormalize, at::Tensor& dlogits_NE);

void sort_by_expert(const at::Tensor& ids_NK, Permutation& out);
void gather_rows(const at::Tensor& x_ND, const Permutation& permutation, at::Tensor& x_RD);
void combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_ND,
                  at::Tensor& out_ND);
/// out[i] = values[index[i]], flat.
void take(const at::Tensor& values, const at::Tensor& index, at::Tensor& out);

void swiglu(const at::Tensor& z_R2F, const at::Tensor& score_R, at::Tensor& h_RF);
void swiglu_backward(const at::Tensor& dh_RF, const at::Tensor& z_R2F, const at::Tensor& score_R, SwigluGrads& grads);

void embedding(const at::Tensor& ids_N, const at::Tensor& w_VD, at::Tensor& x_ND);
void embedding_backward(const at::Tensor& dx_ND, const at::Tensor& ids_N, at::Tensor& dw_VD);

/// losses_N (float64) of a chunk of N tokens; zero where the target is ignored.
void row_losses(const at::Tensor& logits_NV, const at::Tensor& targets_N, at::Tensor& losses_N);
/// The same losses; logits are overwritten by their gradients. seed is a float64 scalar.
void row_losses_and_grads(at::Tensor& logits_NV, const at::Tensor& targets_N, const at::Tensor& seed, RowLosses& out);

/// y_RO = x_RI * w_EIO of each row's expert; w may be a transposed view.
at::Tensor grouped_gemm(const at::Tensor& x_RI, const at::Tensor& w_EIO, const at::Tensor& offsets_E);
void grouped_gemm_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E,
                              at::Tensor& dw_EOI, GradWrite write);
/// dw_OI (fp32) += dy^T x of bf16 operands, or stored, accumulated in fp32.
void gemm_weight_grad(const at::Tensor& dy_NO, const at::Tensor& x_NI, at::Tensor& dw_OI, GradWrite write);

void adamw(const AdamWState& state, const at::Tensor& constants, const at::Tensor& grad_factor);
at::Tensor squared_norm(const at::Tensor& x);

}  // namespace cuda
}  // namespace olmoe::kernels
