// Shapes: B sequences, S positions, H query heads, G key/value heads, d head width; for float64 also J = H/G.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <c10/cuda/CUDAGuard.h>

#include <cmath>
#include <limits>
#include <mutex>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"

// bf16: ATen's FlashAttention-2. (cuDNN's attention is in kernels/cudnn/, since ATen 2.11 does not expose its
// deterministic backward.) float32: ATen's memory-efficient attention, which reaches fp32 accuracy by three TF32
// products. float64, for tests of the parallel logic: the formula, with all scores in memory.
namespace olmoe::kernels::cuda {
namespace {

double score_scale(const at::Tensor& q_BSHd) { return 1 / std::sqrt(static_cast<double>(q_BSHd.size(3))); }

/// x with rows aligned to 16 bytes, as the kernels require: itself, d padded with zeros, or a copy.
at::Tensor aligned(const at::Tensor& x) {
  const int64_t width = 16 / x.element_size(), d = x.size(3);
  if (d % width != 0) return at::constant_pad_nd(x, {0, width - d % width});
  bool fits = x.stride(3) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t dim = 0; dim < 3; ++dim) fits = fits && x.stride(dim) % width == 0;
  return fits ? x : x.clone(at::MemoryFormat::Contiguous);
}

at::Tensor unpadded(const at::Tensor& x, int64_t d) { return x.narrow(3, 0, d); }

/// Sets ATen's flag for deterministic algorithms during its lifetime: without it, FlashAttention's backward accumulates
/// dq by atomics, in no fixed order. The flag is global to the process, so a mutex is held while kernels are enqueued.
class DeterministicSwitch {
 public:
  explicit DeterministicSwitch(bool on) {
    context_.setDeterministicAlgorithms(on, /*warn_only=*/false);
    context_.setDeterministicFillUninitializedMemory(false);  // the kernel overwrites all of it
  }
  ~DeterministicSwitch() {
    context_.setDeterministicAlgorithms(on_, warn_only_);
    context_.setDeterministicFillUninitializedMemory(fill_);
  }
  DeterministicSwitch(const DeterministicSwitch&) = delete;
  DeterministicSwitch& operator=(const DeterministicSwitch&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex only_one;
    return only_one;
  }
  std::lock_guard<std::mutex> lock_{mutex()};
  at::Context& context_ = at::globalContext();
  const bool on_ = context_.deterministicAlgorithms(), warn_only_ = context_.deterministicAlgorithmsWarnOnly(),
             fill_ = context_.deterministicFillUninitializedMemory();
};

AttentionOutput flash(const Qkv& in) {
  const auto& q = in.q_BSHd;
  const auto out = at::_flash_attention_forward(aligned(q), aligned(in.k_BSGd), aligned(in.v_BSGd), {}, {}, q.size(1),
                                                q.size(1), /*dropout_p=*/0, /*is_causal=*/true,
                                                /*return_debug_mask=*/false, score_scale(q));
  return {unpadded(std::get<0>(out), q.size(3)).contiguous(), std::get<1>(out)};
}

Qkv flash_backward(const at::Tensor& dy, const Qkv& in, const AttentionOutput& forward, bool deterministic) {
  const auto& q = in.q_BSHd;
  const at::Tensor no_dropout;  // random state, unused
  const DeterministicSwitch held(deterministic);
  const auto [dq, dk, dv] =
      at::_flash_attention_backward(aligned(dy), aligned(q), aligned(in.k_BSGd), aligned(in.v_BSGd),
                                    aligned(forward.y_BSHd), forward.lse_BHS.contiguous(), {}, {}, q.size(1), q.size(1),
                                    /*dropout_p=*/0, /*is_causal=*/true, no_dropout, no_dropout, score_scale(q));
  return {dq, dk, dv};
}

constexpr int64_t kCausalFromTopLeft = 1;  // ATen's enum value of that mask
/// ATen's kernel reads log-sum-exps in runs of 32, and pads those of each head to a multiple.
constexpr int64_t kLsePadding = 32;

/// Key/value heads repeated for each of their query heads.
at::Tensor expanded_heads(const at::Tensor& x_BSGd, int64_t H) {
  const int64_t B = x_BSGd.size(0), S = x_BSGd.size(1), G = x_BSGd.size(2), d = x_BSGd.size(3);
  return G == H ? x_BSGd : x_BSGd.unsqueeze(3).expand({B, S, G, H / G, d}).reshape({B, S, H, d});
}
/// Sums the gradients of repeated key/value heads.
at::Tensor summed_heads(const at::Tensor& dx_BSHd, int64_t G) {
  const int64_t H = dx_BSHd.size(2);
  return G == H ? dx_BSHd : dx_BSHd.unflatten(2, {G, H / G}).sum(3);
}

AttentionOutput efficient(const Qkv& in) {
  const auto& q = in.q_BSHd;
  const int64_t S = q.size(1), H = q.size(2);
  const auto out = at::_efficient_attention_forward(
      aligned(q), aligned(expanded_heads(in.k_BSGd, H)), aligned(expanded_heads(in.v_BSGd, H)), {}, {}, {}, {}, {},
      /*dropout_p=*/0, kCausalFromTopLeft, /*compute_log_sumexp=*/true, score_scale(q));
  return {unpadded(std::get<0>(out), q.size(3)).contiguous(), std::get<1>(out).narrow(2, 0, S)};
}

Qkv efficient_backward(const at::Tensor& dy, const Qkv& in, const AttentionOutput& forward) {
  const auto& q = in.q_BSHd;
  const int64_t S = q.size(1), H = q.size(2), G = in.k_BSGd.size(2);
  const auto& lse = forward.lse_BHS;
  ENSURE(lse.stride(2) == 1 && lse.stride(1) % kLsePadding == 0 && lse.stride(0) % kLsePadding == 0,
         "attention: the log-sum-exps must be those of the forward, in rows padded to {}", kLsePadding);
  const at::Tensor no_dropout;
  const auto out = at::_efficient_attention_backward(
      aligned(dy), aligned(q), aligned(expanded_heads(in.k_BSGd, H)), aligned(expanded_heads(in.v_BSGd, H)), {},
      aligned(forward.y_BSHd), {}, {}, S, S, lse, /*dropout_p=*/0, no_dropout, no_dropout, kCausalFromTopLeft,
      /*bias_requires_grad=*/false, score_scale(q), /*num_splits_key=*/1);  // 1: sums over keys in a fixed order
  return {std::get<0>(out), summed_heads(std::get<1>(out), G), summed_heads(std::get<2>(out), G)};
}

/// Query heads as [B, G, J, S, d], key/value heads as [B, G, 1, S, d].
at::Tensor grouped(const at::Tensor& x_BSHd, int64_t G) {
  return x_BSHd.unflatten(2, {G, x_BSHd.size(2) / G}).permute({0, 2, 3, 1, 4});
}
at::Tensor ungrouped(const at::Tensor& x_BGJSd) { return x_BGJSd.permute({0, 3, 1, 2, 4}).flatten(2, 3); }

/// Scaled scores [B, G, J, S, S], minus infinity for keys after the query.
at::Tensor masked_scores(const at::Tensor& q_BGJSd, const at::Tensor& k_BG1Sd, double scale) {
  const int64_t S = q_BGJSd.size(3);
  const at::Tensor future_SS = at::ones({S, S}, q_BGJSd.options().dtype(at::kBool)).triu(1);
  return at::matmul(q_BGJSd, k_BG1Sd.transpose(3, 4))
      .mul(scale)
      .masked_fill(future_SS, -std::numeric_limits<double>::infinity());
}

AttentionOutput formula(const Qkv& in) {
  const int64_t B = in.q_BSHd.size(0), S = in.q_BSHd.size(1), H = in.q_BSHd.size(2), G = in.k_BSGd.size(2);
  const at::Tensor scores = masked_scores(grouped(in.q_BSHd, G), grouped(in.k_BSGd, G), score_scale(in.q_BSHd));
  const at::Tensor lse = scores.logsumexp(4, /*keepdim=*/true);
  const at::Tensor y = at::matmul((scores - lse).exp(), grouped(in.v_BSGd, G));
  return {ungrouped(y).contiguous(), lse.reshape({B, H, S})};
}

Qkv formula_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward) {
  const int64_t B = in.q_BSHd.size(0), S = in.q_BSHd.size(1), H = in.q_BSHd.size(2), G = in.k_BSGd.size(2);
  const double scale = score_scale(in.q_BSHd);
  const at::Tensor q = grouped(in.q_BSHd, G), k = grouped(in.k_BSGd, G), v = grouped(in.v_BSGd, G),
                   dy = grouped(dy_BSHd, G), y = grouped(forward.y_BSHd, G);
  const at::Tensor probs = (masked_scores(q, k, scale) - forward.lse_BHS.reshape({B, G, H / G, S, 1})).exp();
  const at::Tensor dprobs = at::matmul(dy, v.transpose(3, 4));
  const at::Tensor dscores = probs * (dprobs - (dy * y).sum(4, /*keepdim=*/true)) * scale;
  const auto of_group = [](const at::Tensor& x_BGJSd) { return ungrouped(x_BGJSd.sum(2, /*keepdim=*/true)); };
  return {ungrouped(at::matmul(dscores, k)), of_group(at::matmul(dscores.transpose(3, 4), q)),
          of_group(at::matmul(probs.transpose(3, 4), dy))};
}

}  // namespace

AttentionOutput causal_attention(const Qkv& in) {
  const at::AutoDispatchBelowAutograd no_graph;
  const auto& q = in.q_BSHd;
  const c10::cuda::CUDAGuard device(q.device());
  if (q.numel() == 0)
    return {at::empty(q.sizes(), q.options()),
            at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(acc_dtype(q.scalar_type())))};
  if (q.scalar_type() == at::kBFloat16) return flash(in);
  if (q.scalar_type() == at::kFloat) return efficient(in);
  ENSURE(q.scalar_type() == at::kDouble, "attention: no kernel for dtype {}", c10::toString(q.scalar_type()));
  return formula(in);
}

void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                               const Qkv& grads, bool deterministic) {
  const at::AutoDispatchBelowAutograd no_graph;
  const auto& q = in.q_BSHd;
  const c10::cuda::CUDAGuard device(q.device());
  if (q.numel() == 0) return;
  const auto backward = [&]() -> Qkv {
    if (q.scalar_type() == at::kBFloat16) return flash_backward(dy_BSHd, in, forward, deterministic);
    if (q.scalar_type() == at::kFloat) return efficient_backward(dy_BSHd, in, forward);
    ENSURE(q.scalar_type() == at::kDouble, "attention: no kernel for dtype {}", c10::toString(q.scalar_type()));
    return formula_backward(dy_BSHd, in, forward);
  };
  const auto [dq, dk, dv] = backward();
  grads.q_BSHd.copy_(unpadded(dq, q.size(3)));
  grads.k_BSGd.copy_(unpadded(dk, q.size(3)));
  grads.v_BSGd.copy_(unpadded(dv, q.size(3)));
}

}  // namespace olmoe::kernels::cuda
