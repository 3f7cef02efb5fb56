#include "kernels/attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "kernels/dtypes.h"

namespace olmoe::kernels {
namespace {

/// [B, S, G, d] read as [B, H, S, d]: each key/value head repeated for its H/G query heads, without
/// a copy where H = G.
at::Tensor by_query_head(const at::Tensor& k_BSGd, int64_t H) {
  const int64_t B = k_BSGd.size(0), S = k_BSGd.size(1), G = k_BSGd.size(2), d = k_BSGd.size(3);
  if (G == H) return k_BSGd.transpose(1, 2);
  return k_BSGd.transpose(1, 2).unsqueeze(2).expand({B, G, H / G, S, d}).reshape({B, H, S, d});
}

/// The sum over the query heads that read one key/value head, as [B, S, G, d].
at::Tensor by_kv_head(const at::Tensor& dk_BHSd, int64_t G) {
  const int64_t B = dk_BHSd.size(0), H = dk_BHSd.size(1), S = dk_BHSd.size(2), d = dk_BHSd.size(3);
  if (G == H) return dk_BHSd.transpose(1, 2);
  const at::Tensor heads = dk_BHSd.reshape({B, G, H / G, S, d});
  return heads.sum(2, false, acc_dtype(dk_BHSd.scalar_type()))
      .to(dk_BHSd.scalar_type())
      .transpose(1, 2);
}

void ensure_operands(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  ensure_cpu(q, 4, "attention: q");
  ensure_cpu(k, 4, "attention: k");
  ENSURE(k.sizes() == v.sizes() && q.size(0) == k.size(0) && q.size(1) == k.size(1) &&
             q.size(3) == k.size(3),
         "attention: q, k and v must agree in batch, length and head width");
  ENSURE(k.size(2) > 0 && q.size(2) % k.size(2) == 0,
         "attention: {} key/value heads do not divide {} heads", k.size(2), q.size(2));
}

}  // namespace

Attention causal_attention(const at::Tensor& q_BSHd, const at::Tensor& k_BSGd,
                           const at::Tensor& v_BSGd) {
  ensure_operands(q_BSHd, k_BSGd, v_BSGd);
  const int64_t B = q_BSHd.size(0), S = q_BSHd.size(1), H = q_BSHd.size(2);
  if (q_BSHd.numel() == 0)
    return {at::empty(q_BSHd.sizes(), q_BSHd.options()),
            at::empty({B, H, S}, q_BSHd.options().dtype(acc_dtype(q_BSHd.scalar_type())))};
  auto [y_BHSd, lse_BHS] = at::_scaled_dot_product_flash_attention_for_cpu(
      q_BSHd.transpose(1, 2), by_query_head(k_BSGd, H), by_query_head(v_BSGd, H), /*dropout_p=*/0.0,
      /*is_causal=*/true);
  return {y_BHSd.transpose(1, 2).contiguous(), lse_BHS};
}

AttentionGrads causal_attention_backward(const at::Tensor& dy_BSHd, const at::Tensor& q_BSHd,
                                         const at::Tensor& k_BSGd, const at::Tensor& v_BSGd,
                                         const Attention& forward) {
  ensure_operands(q_BSHd, k_BSGd, v_BSGd);
  if (q_BSHd.numel() == 0)
    return {at::empty(q_BSHd.sizes(), q_BSHd.options()),
            at::zeros(k_BSGd.sizes(), k_BSGd.options()),
            at::zeros(v_BSGd.sizes(), v_BSGd.options())};
  const int64_t H = q_BSHd.size(2), G = k_BSGd.size(2);
  auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      dy_BSHd.transpose(1, 2), q_BSHd.transpose(1, 2), by_query_head(k_BSGd, H),
      by_query_head(v_BSGd, H), forward.y_BSHd.transpose(1, 2), forward.lse_BHS, /*dropout_p=*/0.0,
      /*is_causal=*/true);
  return {dq.transpose(1, 2), by_kv_head(dk, G), by_kv_head(dv, G)};
}

}  // namespace olmoe::kernels
