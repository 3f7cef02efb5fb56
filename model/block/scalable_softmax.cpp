#include "model/block/scalable_softmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/searchsorted.h>

namespace olmoe {
namespace {

/// Keys that the token at each of `rows` positions sees, int64.
at::Tensor count_keys(int64_t rows, const VisibleKeys& keys, at::Device device) {
  const auto position = at::arange(rows, at::TensorOptions().dtype(at::kLong).device(device));
  auto count = position + 1;
  if (keys.bounds.defined()) {
    const auto document = at::searchsorted(keys.bounds, position.to(at::kInt), /*out_int32=*/false, /*right=*/true) - 1;
    count = count - keys.bounds.index_select(0, document);
  }
  return keys.window > 0 ? count.clamp_max(keys.window) : count;
}

at::Tensor by_head(const at::Tensor& x_ND, const at::Tensor& s_H) {
  return x_ND.unflatten(1, {s_H.size(0), x_ND.size(1) / s_H.size(0)});
}

}  // namespace

at::Tensor scaled_table(const at::Tensor& table, const VisibleKeys& keys) {
  if (keys.tokens == 0) return table;
  const int64_t positions = keys.tokens / keys.sequences, rows = keys.bounds.defined() ? keys.tokens : positions;
  const auto log_N1 = count_keys(rows, keys, table.device()).to(table.scalar_type()).log().unsqueeze(1);
  return (table.size(0) > 1 ? table.repeat({rows / positions, 1}) : table) * log_N1;
}

at::Tensor scaled_rows(const at::Tensor& table, const at::Tensor& positions_N, int64_t window) {
  auto count_N = positions_N + 1;
  if (window > 0) count_N = count_N.clamp_max(window);
  return table * count_N.to(table.scalar_type()).log().unsqueeze(1);
}

at::Tensor scale_heads(const at::Tensor& x_ND, const at::Tensor& s_H) {
  return (by_head(x_ND, s_H) * s_H.unsqueeze(1)).flatten(1);
}

void scale_heads_backward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& s_H,
                          const at::Tensor& ds_H) {
  const auto product_ND =
      dy_ND.scalar_type() == ds_H.scalar_type() ? dy_ND * x_ND : dy_ND.to(ds_H.scalar_type()).mul_(x_ND);
  ds_H.add_(by_head(product_ND, s_H).sum(at::IntArrayRef({0, 2})));
  by_head(dy_ND, s_H).mul_(s_H.unsqueeze(1));
}

}  // namespace olmoe
