// Shapes: B sequences, S positions, H query heads, G key/value heads, d head width; for float64 also J = H/G.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/searchsorted.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "kernels/attention_index.h"
#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"

// bf16: ATen's FlashAttention-2. (cuDNN's attention is in kernels/cudnn/, since ATen 2.11 does not expose its
// deterministic backward.) float32: ATen's memory-efficient attention, which reaches fp32 accuracy by three TF32
// products. float64, for tests of the parallel logic: the formula, with all scores in memory. Documents in bf16: one
// call for all of a micro-batch, of FlashAttention's form for sequences of different lengths.
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

/// FlashAttention's number of keys before a query.
std::optional<int64_t> keys_before(const AttentionMask& mask) {
  return mask.window > 0 ? std::optional(mask.window - 1) : std::nullopt;
}

AttentionOutput flash(const Qkv& in, const AttentionMask& mask) {
  const auto& q = in.q_BSHd;
  const auto out =
      at::_flash_attention_forward(aligned(q), aligned(in.k_BSGd), aligned(in.v_BSGd), {}, {}, q.size(1), q.size(1),
                                   /*dropout_p=*/0, /*is_causal=*/true,
                                   /*return_debug_mask=*/false, score_scale(q), keys_before(mask));
  return {unpadded(std::get<0>(out), q.size(3)).contiguous(), std::get<1>(out)};
}

Qkv flash_backward(const at::Tensor& dy, const Qkv& in, const AttentionOutput& forward, const AttentionMask& mask) {
  const auto& q = in.q_BSHd;
  const at::Tensor no_dropout;  // random state, unused
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      aligned(dy), aligned(q), aligned(in.k_BSGd), aligned(in.v_BSGd), aligned(forward.y_BSHd),
      forward.lse_BHS.contiguous(), {}, {}, q.size(1), q.size(1),
      /*dropout_p=*/0, /*is_causal=*/true, no_dropout, no_dropout, score_scale(q), keys_before(mask));
  return {dq, dk, dv};
}

/// Rows of all documents as FlashAttention takes them: [N, heads, d].
at::Tensor document_rows(const at::Tensor& x_1NHd, const DocumentGroup& group) {
  return aligned(x_1NHd.narrow(1, group.begin, group.rows)).squeeze(0);
}
/// A length that FlashAttention takes for the longest: of one position it would pack heads instead.
int64_t longest(const DocumentGroup& group) { return std::max<int64_t>(group.longest, 2); }

std::span<const int32_t> bounds_on_cpu(const AttentionMask& mask) {
  return {mask.bounds_cpu.const_data_ptr<int32_t>(), static_cast<size_t>(mask.bounds_cpu.numel())};
}

/// Bounds of a group's documents in its own rows.
at::Tensor bounds_of(const DocumentGroup& group, const AttentionMask& mask) {
  const at::Tensor bounds = mask.bounds.narrow(0, group.first, group.count + 1);
  return group.begin == 0 ? bounds : bounds - group.begin;
}

/// All documents in one call, unless they are more than it takes.
AttentionOutput flash_documents(const Qkv& in, const AttentionMask& mask) {
  const auto& q = in.q_BSHd;
  std::vector<at::Tensor> y_NHd, lse_HN;
  for (const auto& group : document_groups(bounds_on_cpu(mask), kMostDocuments)) {
    const at::Tensor bounds = bounds_of(group, mask);
    const auto rows = [&](const at::Tensor& x) { return document_rows(x, group); };
    const auto out = at::_flash_attention_forward(rows(q), rows(in.k_BSGd), rows(in.v_BSGd), bounds, bounds,
                                                  longest(group), longest(group), /*dropout_p=*/0, /*is_causal=*/true,
                                                  /*return_debug_mask=*/false, score_scale(q), keys_before(mask));
    y_NHd.push_back(std::get<0>(out).narrow(2, 0, q.size(3)));
    lse_HN.push_back(std::get<1>(out));
  }
  if (y_NHd.size() == 1) return {y_NHd[0].contiguous().unsqueeze(0), lse_HN[0].unsqueeze(0)};
  return {at::cat(y_NHd, 0).unsqueeze(0), at::cat(lse_HN, 1).unsqueeze(0)};
}

/// Writes `grads`, group by group, so that what FlashAttention allocates does not grow with the number of documents.
void flash_documents_backward(const at::Tensor& dy, const Qkv& in, const AttentionOutput& forward, const Qkv& grads,
                              const AttentionMask& mask) {
  const auto& q = in.q_BSHd;
  const at::Tensor no_dropout;
  const auto bounds_cpu = bounds_on_cpu(mask);
  for (const auto& group : document_groups(bounds_cpu, most_documents(bounds_cpu.back()))) {
    const at::Tensor bounds = bounds_of(group, mask);
    const auto rows = [&](const at::Tensor& x) { return document_rows(x, group); };
    const at::Tensor lse_HN = forward.lse_BHS.squeeze(0).narrow(1, group.begin, group.rows).contiguous();
    const auto [dq, dk, dv] =
        at::_flash_attention_backward(rows(dy), rows(q), rows(in.k_BSGd), rows(in.v_BSGd), rows(forward.y_BSHd), lse_HN,
                                      bounds, bounds, longest(group), longest(group), /*dropout_p=*/0,
                                      /*is_causal=*/true, no_dropout, no_dropout, score_scale(q), keys_before(mask));
    const auto write = [&](const at::Tensor& to, const at::Tensor& from) {
      to.squeeze(0).narrow(0, group.begin, group.rows).copy_(from.narrow(2, 0, q.size(3)));
    };
    write(grads.q_BSHd, dq);
    write(grads.k_BSGd, dk);
    write(grads.v_BSGd, dv);
  }
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

/// Scaled scores [B, G, J, S, S], minus infinity for keys that a query does not see.
at::Tensor masked_scores(const at::Tensor& q_BGJSd, const at::Tensor& k_BG1Sd, const AttentionMask& mask) {
  const int64_t S = q_BGJSd.size(3);
  const double scale = 1 / std::sqrt(static_cast<double>(q_BGJSd.size(4)));
  const at::Tensor ones_SS = at::ones({S, S}, q_BGJSd.options().dtype(at::kBool));
  at::Tensor hidden_SS = ones_SS.triu(1);
  if (mask.window > 0) hidden_SS = hidden_SS.logical_or(ones_SS.tril(-mask.window));
  if (mask.bounds.defined()) {
    const at::Tensor positions = at::arange(S, mask.bounds.options());
    const at::Tensor document_S = at::searchsorted(mask.bounds, positions, /*out_int32=*/false, /*right=*/true);
    hidden_SS = hidden_SS.logical_or(document_S.unsqueeze(1) != document_S.unsqueeze(0));
  }
  return at::matmul(q_BGJSd, k_BG1Sd.transpose(3, 4))
      .mul(scale)
      .masked_fill(hidden_SS, -std::numeric_limits<double>::infinity());
}

AttentionOutput formula(const Qkv& in, const AttentionMask& mask) {
  const int64_t B = in.q_BSHd.size(0), S = in.q_BSHd.size(1), H = in.q_BSHd.size(2), G = in.k_BSGd.size(2);
  const at::Tensor scores = masked_scores(grouped(in.q_BSHd, G), grouped(in.k_BSGd, G), mask);
  const at::Tensor lse = scores.logsumexp(4, /*keepdim=*/true);
  const at::Tensor y = at::matmul((scores - lse).exp(), grouped(in.v_BSGd, G));
  return {ungrouped(y).contiguous(), lse.reshape({B, H, S})};
}

Qkv formula_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                     const AttentionMask& mask) {
  const int64_t B = in.q_BSHd.size(0), S = in.q_BSHd.size(1), H = in.q_BSHd.size(2), G = in.k_BSGd.size(2);
  const double scale = score_scale(in.q_BSHd);
  const at::Tensor q = grouped(in.q_BSHd, G), k = grouped(in.k_BSGd, G), v = grouped(in.v_BSGd, G),
                   dy = grouped(dy_BSHd, G), y = grouped(forward.y_BSHd, G);
  const at::Tensor probs = (masked_scores(q, k, mask) - forward.lse_BHS.reshape({B, G, H / G, S, 1})).exp();
  const at::Tensor dprobs = at::matmul(dy, v.transpose(3, 4));
  const at::Tensor dscores = probs * (dprobs - (dy * y).sum(4, /*keepdim=*/true)) * scale;
  const auto of_group = [](const at::Tensor& x_BGJSd) { return ungrouped(x_BGJSd.sum(2, /*keepdim=*/true)); };
  return {ungrouped(at::matmul(dscores, k)), of_group(at::matmul(dscores.transpose(3, 4), q)),
          of_group(at::matmul(probs.transpose(3, 4), dy))};
}

}  // namespace

AttentionOutput causal_attention(const Qkv& in, const AttentionMask& mask) {
  const at::AutoDispatchBelowAutograd no_graph;
  const auto& q = in.q_BSHd;
  const c10::cuda::CUDAGuard device(q.device());
  if (q.numel() == 0)
    return {at::empty(q.sizes(), q.options()),
            at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(acc_dtype(q.scalar_type())))};
  if (q.scalar_type() == at::kBFloat16) return mask.bounds.defined() ? flash_documents(in, mask) : flash(in, mask);
  if (q.scalar_type() == at::kFloat) return efficient(in);
  ENSURE(q.scalar_type() == at::kDouble, "attention: no kernel for dtype {}", c10::toString(q.scalar_type()));
  return formula(in, mask);
}

void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                               const Qkv& grads, bool deterministic, const AttentionMask& mask) {
  const at::AutoDispatchBelowAutograd no_graph;
  const auto& q = in.q_BSHd;
  const c10::cuda::CUDAGuard device(q.device());
  if (q.numel() == 0) return;
  const bool flashes = q.scalar_type() == at::kBFloat16;
  std::optional<DeterministicSwitch> held;
  if (flashes) held.emplace(deterministic);
  if (flashes && mask.bounds.defined()) return flash_documents_backward(dy_BSHd, in, forward, grads, mask);
  const auto backward = [&]() -> Qkv {
    if (flashes) return flash_backward(dy_BSHd, in, forward, mask);
    if (q.scalar_type() == at::kFloat) return efficient_backward(dy_BSHd, in, forward);
    ENSURE(q.scalar_type() == at::kDouble, "attention: no kernel for dtype {}", c10::toString(q.scalar_type()));
    return formula_backward(dy_BSHd, in, forward, mask);
  };
  const auto [dq, dk, dv] = backward();
  held.reset();
  grads.q_BSHd.copy_(unpadded(dq, q.size(3)));
  grads.k_BSGd.copy_(unpadded(dk, q.size(3)));
  grads.v_BSGd.copy_(unpadded(dv, q.size(3)));
}

}  // namespace olmoe::kernels::cuda
