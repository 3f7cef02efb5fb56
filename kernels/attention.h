// Shapes: B sequences, S positions, H query heads, G key/value heads (G divides H), d head width.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace olmoe::kernels {

/// Operands, or their gradients, all of one dtype. May be strided views, such as the column ranges of a fused
/// projection; the rows [d] of gradients must be dense.
struct Qkv {
  at::Tensor q_BSHd, k_BSGd, v_BSGd;
};
struct AttentionOutput {
  at::Tensor y_BSHd;   ///< contiguous in this order, so it can be viewed as [B*S, H*d]; dtype of q
  at::Tensor lse_BHS;  ///< log-sum-exp of the scaled scores in at least fp32, for the backward
};

/// flash: FlashAttention-2, our own on a CPU, ATen's on a GPU. cudnn: cuDNN's fused attention, for bf16
/// on GPUs of compute capability 9.0.
enum class AttentionKernel { flash, cudnn };

/// cuDNN's attention with a cache of execution plans by shape. The first call of a shape builds its plan, which takes
/// seconds; later calls are only enqueued. Not thread-safe.
/// A CustomClassHolder, so that the autograd graph of a forward can own it until its backward.
class CudnnAttention : public torch::jit::CustomClassHolder {
 public:
  virtual AttentionOutput forward(const Qkv& in) = 0;
  virtual void backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward, const Qkv& grads,
                        bool deterministic) = 0;
  virtual int64_t plans() const = 0;  ///< built so far
};

struct AttentionMethod {
  /// Bit-identical gradients in every run. If false, the backward on a GPU may accumulate dq by atomics, in any order.
  /// The CPU's backward is deterministic in any case.
  bool deterministic = true;
  c10::intrusive_ptr<CudnnAttention> cudnn;  ///< null: FlashAttention
};
/// Throws Error if `kernel` is not built into this program.
AttentionMethod make_attention_method(AttentionKernel kernel, bool deterministic);
/// Whether cuDNN's attention is built into this program, and whether it supports heads of this width.
bool cudnn_attention_built_in();
bool cudnn_attention_fits(int64_t head_dim);

/// Which keys up to its own position a query sees; all of its sequence by default.
struct AttentionMask {
  int64_t window = 0;     ///< the last `window` keys, its own included; 0: all. Source: arXiv 2004.05150
  at::Tensor bounds;      ///< the keys of its document; undefined: of its sequence. Then B is 1, and document i is the
                          ///< positions [bounds[i], bounds[i+1]) of S: int32 [n+1] on the device of q, from 0 to S
  at::Tensor bounds_cpu;  ///< the same on the CPU

  bool all() const { return window == 0 && !bounds.defined(); }
};

/// y = softmax(q k^T / sqrt(d), causal) v; query head h reads key/value head h / (H/G). The scores of one block of
/// queries at a time are in memory. Throws Error where shapes or devices do not match, and on a GPU for a mask in fp32
/// or with cuDNN. In float64 on a GPU all scores are in memory.
/// Source: FlashAttention-2 (arXiv 2307.08691), without its blocks of keys; grouped heads: GQA (arXiv 2305.13245).
AttentionOutput causal_attention(const Qkv& in, const AttentionMethod& method = {}, const AttentionMask& mask = {});
/// Overwrites all of `grads`, which may be column ranges of one fused gradient. `forward`: what causal_attention()
/// returned for `in` and `mask`.
void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                               const Qkv& grads, const AttentionMethod& method = {}, const AttentionMask& mask = {});

}  // namespace olmoe::kernels
