// Shapes: B sequences, S positions, H query heads, G key/value heads (G divides H), d head width.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace olmoe::kernels {

/// Operands, or their gradients. May be strided views; the rows of gradients must be dense.
struct Qkv {
  at::Tensor q_BSHd, k_BSGd, v_BSGd;
};
struct Attention {
  at::Tensor y_BSHd;   ///< contiguous in this order, so it reads as [B*S, H*d]
  at::Tensor lse_BHS;  ///< log-sum-exp of the scaled scores in at least fp32, for the backward
};

/// flash: FlashAttention-2, ours on a CPU, ATen's on a GPU. cudnn: cuDNN's fused attention, for bf16
/// on GPUs of compute capability 9.0.
enum class AttentionKernel { flash, cudnn };

/// cuDNN's attention, with the plan of each shape that it was asked for: the first call of a shape
/// makes it, which takes seconds, and later ones are enqueued. Used by one thread at a time.
/// CustomClassHolder: the graph of a forward can hold it for its backward.
class CudnnAttention : public torch::jit::CustomClassHolder {
 public:
  virtual Attention forward(const Qkv& in) = 0;
  virtual void backward(const at::Tensor& dy_BSHd, const Qkv& in, const Attention& forward, const Qkv& grads,
                        bool deterministic) = 0;
  virtual int64_t plans() const = 0;  ///< made so far
};

struct AttentionMethod {
  /// The same bits each time. Without, a backward on a GPU adds up dq in whatever order its blocks
  /// come; one on a CPU gives the same bits anyway.
  bool deterministic = true;
  c10::intrusive_ptr<CudnnAttention> cudnn;  ///< none: FlashAttention
};
/// Throws Error where this program has no such kernel.
AttentionMethod make_attention_method(AttentionKernel kernel, bool deterministic);
/// True if this program can compute with cuDNN's attention, and if that takes heads of this width.
bool cudnn_attention_built_in();
bool cudnn_attention_fits(int64_t head_dim);

/// Causal softmax(q k^T / sqrt(d)) v; query head h reads key/value head h / (H/G). Scores are never
/// in memory whole. Source: FlashAttention-2 (arXiv 2307.08691), without its blocks of keys.
Attention causal_attention(const Qkv& in, const AttentionMethod& method = {});
/// Writes all of `grads`, which may be column ranges of one fused gradient.
void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const Attention& forward, const Qkv& grads,
                               const AttentionMethod& method = {});

}  // namespace olmoe::kernels
