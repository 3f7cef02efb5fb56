#include "model/block/qk_norm.h"

#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "model/block/norm.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// The columns of queries, keys and values.
struct Columns {
  int64_t first, width, group;
  at::Tensor of(const at::Tensor& x_NC) const { return x_NC.narrow(1, first, width); }
  /// [N, width / group, group]
  at::Tensor groups_of(const at::Tensor& x_NC) const { return of(x_NC).unflatten(1, {width / group, group}); }
};

std::array<Columns, 3> columns_of(const QkWidths& widths, int64_t C) {
  const int64_t values = widths.queries + widths.keys;
  return {Columns{0, widths.queries, widths.query_group}, Columns{widths.queries, widths.keys, widths.key_group},
          Columns{values, C - values, C - values}};
}

struct QkNormFunction : Function<QkNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv_NC, const std::optional<at::Tensor>& q_weight,
                            const std::optional<at::Tensor>& k_weight, const QkWidths& widths, double eps) {
    const auto [q, k, v] = columns_of(widths, qkv_NC.size(1));
    const auto y_NC = at::empty_like(qkv_NC);
    const auto write = [&](const Columns& columns, const std::optional<at::Tensor>& weight) {
      const auto out = normalize(columns.groups_of(qkv_NC), {weight.value_or(at::Tensor()), {}}, {NormKind::rms, eps});
      columns.groups_of(y_NC).copy_(out.y);
      return out.statistics.rstd;
    };
    const auto q_rstd = write(q, q_weight), k_rstd = write(k, k_weight);
    v.of(y_NC).copy_(v.of(qkv_NC));
    ctx->save_for_backward({qkv_NC, q_weight.value_or(at::Tensor()), k_weight.value_or(at::Tensor()), q_rstd, k_rstd});
    ctx->saved_data["queries"] = widths.queries;
    ctx->saved_data["keys"] = widths.keys;
    ctx->saved_data["query_group"] = widths.query_group;
    ctx->saved_data["key_group"] = widths.key_group;
    return y_NC;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    auto& data = ctx->saved_data;
    const QkWidths widths{data["queries"].toInt(), data["keys"].toInt(), data["query_group"].toInt(),
                          data["key_group"].toInt()};
    const auto &qkv_NC = saved[0], &dy_NC = grads[0];
    const auto [q, k, v] = columns_of(widths, qkv_NC.size(1));
    const auto dqkv_NC = at::empty_like(qkv_NC);
    const auto write = [&](const Columns& columns, const at::Tensor& weight, const at::Tensor& rstd) {
      columns.groups_of(dqkv_NC).copy_(
          normalize_backward(columns.groups_of(dy_NC), columns.groups_of(qkv_NC), {{}, rstd}, {weight, {}}));
    };
    write(q, saved[1], saved[3]);
    write(k, saved[2], saved[4]);
    v.of(dqkv_NC).copy_(v.of(dy_NC));
    return {dqkv_NC, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor qk_norm(const at::Tensor& qkv_NC, const QkWeights& weights, const QkWidths& widths, double eps) {
  return QkNormFunction::apply(qkv_NC, std::optional(weights.queries), std::optional(weights.keys), widths, eps);
}

}  // namespace olmoe
