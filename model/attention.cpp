#include "model/attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/attention.h"
#include "kernels/cached_attention.h"
#include "kernels/rotary.h"
#include "model/attention_memory.h"
#include "model/block/output_gate.h"
#include "model/block/scalable_softmax.h"

namespace olmoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct HeadShape {
  int64_t sequences, heads, kv_heads, head_dim;
  int64_t window;  ///< 0: none
  double eps;
  std::optional<double> clip;
  SavePolicy save_policy;
  kernels::AttentionMethod method;
};

/// Undefined where the model has none.
struct Weights {
  at::Tensor q_norm, k_norm, softmax_scale_H;
};

/// Between the projections: qkv_NC -> y_ND.
struct AttentionFunction : Function<AttentionFunction> {
  static at::Tensor heads(const at::Tensor& x_NW, int64_t sequences, int64_t head_dim) {
    const int64_t positions = sequences > 0 ? x_NW.size(0) / sequences : 0;
    return x_NW.unflatten(0, {sequences, positions}).unflatten(2, {x_NW.size(1) / head_dim, head_dim});
  }
  static std::array<at::Tensor, 3> split(const at::Tensor& qkv_NC, const HeadShape& shape) {
    const int64_t q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
    return {qkv_NC.narrow(1, 0, q_width), qkv_NC.narrow(1, q_width, kv_width),
            qkv_NC.narrow(1, q_width + kv_width, kv_width)};
  }

  /// saved[0..6]: qkv_NC, the weights of both norms, the rotary table, the softmax scale, bounds of documents on the
  /// device and on the CPU.
  static kernels::AttentionMask mask(const variable_list& saved, const HeadShape& shape) {
    return {shape.window, saved[5], saved[6]};
  }
  /// As one sequence of documents, or as sequences: [B, S, heads, d].
  static at::Tensor heads(const at::Tensor& x_NW, const kernels::AttentionMask& mask, const HeadShape& shape) {
    return heads(x_NW, mask.bounds.defined() ? 1 : shape.sequences, shape.head_dim);
  }
  /// The angles of the queries, with their part of scalable softmax that depends on the position.
  static at::Tensor query_table(const variable_list& saved, const HeadShape& shape) {
    if (!saved[4].defined()) return saved[3];
    return scaled_table(saved[3], {saved[0].size(0), shape.sequences, shape.window, saved[5]});
  }
  /// The part of scalable softmax that is learned.
  static at::Tensor scaled_queries(const at::Tensor& q_ND, const variable_list& saved) {
    return saved[4].defined() ? scale_heads(q_ND, saved[4]) : q_ND;
  }

  /// The inputs of softmax attention.
  struct Rotated {
    kernels::NormRotary q, k;
    at::Tensor v_NW;
  };
  static Rotated rotated(const variable_list& saved, const at::Tensor& query_table, const HeadShape& shape) {
    auto [q_raw, k_raw, v_raw] = split(saved[0], shape);
    return {kernels::norm_rotary({q_raw, saved[1], query_table, shape.clip}, shape.eps),
            kernels::norm_rotary({k_raw, saved[2], saved[3], shape.clip}, shape.eps),
            shape.clip ? v_raw.clamp(-*shape.clip, *shape.clip) : v_raw};
  }

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv_NC, const Weights& weights,
                            const at::Tensor& table_Sd, const Batch& batch, const HeadShape& shape) {
    variable_list saved{qkv_NC,       weights.q_norm,  weights.k_norm, table_Sd, weights.softmax_scale_H,
                        batch.bounds, batch.bounds_cpu};
    const auto [q, k, v] = rotated(saved, query_table(saved, shape), shape);
    const auto keys = mask(saved, shape);
    auto as_heads = [&](const at::Tensor& x) { return heads(x, keys, shape); };
    auto out = kernels::causal_attention({as_heads(scaled_queries(q.y_NW, saved)), as_heads(k.y_NW), as_heads(v)},
                                         shape.method, keys);
    saved.insert(saved.end(), {out.y_BSHd, out.lse_BHS});
    if (shape.save_policy == SavePolicy::all) saved.insert(saved.end(), {q.y_NW, q.rstd_N, k.y_NW, k.rstd_N, v});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["sequences"] = shape.sequences;
    ctx->saved_data["heads"] = shape.heads;
    ctx->saved_data["kv_heads"] = shape.kv_heads;
    ctx->saved_data["head_dim"] = shape.head_dim;
    ctx->saved_data["window"] = shape.window;
    ctx->saved_data["eps"] = shape.eps;
    ctx->saved_data["save_all"] = shape.save_policy == SavePolicy::all;
    if (shape.clip) ctx->saved_data["clip"] = *shape.clip;
    ctx->saved_data["deterministic"] = shape.method.deterministic;
    if (const auto& cudnn = shape.method.cudnn) ctx->saved_data["cudnn"] = c10::IValue::make_capsule(cudnn);
    return out.y_BSHd.flatten(2).flatten(0, 1);
  }

  static HeadShape saved_shape(AutogradContext* ctx) {
    auto& data = ctx->saved_data;
    std::optional<double> clip;
    if (data.count("clip")) clip = data["clip"].toDouble();
    kernels::AttentionMethod method{data["deterministic"].toBool(), {}};
    if (data.count("cudnn"))
      method.cudnn = c10::static_intrusive_pointer_cast<kernels::CudnnAttention>(data["cudnn"].toCapsule());
    return {data["sequences"].toInt(),
            data["heads"].toInt(),
            data["kv_heads"].toInt(),
            data["head_dim"].toInt(),
            data["window"].toInt(),
            data["eps"].toDouble(),
            clip,
            data["save_all"].toBool() ? SavePolicy::all : SavePolicy::selective,
            std::move(method)};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto shape = saved_shape(ctx);
    auto saved = ctx->get_saved_variables();
    const auto &qkv = saved[0], &q_norm = saved[1], &k_norm = saved[2], &table = saved[3], &scale = saved[4];
    const auto of_queries = query_table(saved, shape);
    const auto [q, k, v] = shape.save_policy == SavePolicy::all
                               ? Rotated{{saved[9], saved[10]}, {saved[11], saved[12]}, saved[13]}
                               : rotated(saved, of_queries, shape);
    const auto keys = mask(saved, shape);
    auto as_heads = [&](const at::Tensor& x) { return heads(x, keys, shape); };
    auto dqkv = at::empty_like(qkv);
    auto [q_raw, k_raw, v_raw] = split(qkv, shape);
    auto [dq, dk, dv] = split(dqkv, shape);
    kernels::causal_attention_backward(
        as_heads(grads[0]), {as_heads(scaled_queries(q.y_NW, saved)), as_heads(k.y_NW), as_heads(v)},
        {saved[7], saved[8]}, {as_heads(dq), as_heads(dk), as_heads(dv)}, shape.method, keys);
    if (scale.defined()) scale_heads_backward(dq, q.y_NW, scale, weight_grad(scale));
    auto norm_grad = [](const at::Tensor& w) { return w.defined() ? weight_grad(w) : at::Tensor(); };
    kernels::norm_rotary_backward(dq, {q_raw, q_norm, of_queries, shape.clip}, q.rstd_N, dq, norm_grad(q_norm));
    kernels::norm_rotary_backward(dk, {k_raw, k_norm, table, shape.clip}, k.rstd_N, dk, norm_grad(k_norm));
    if (shape.clip) dv.masked_fill_(v_raw.abs() > *shape.clip, 0);
    return {dqkv, {}, {}, {}, {}};
  }
};

}  // namespace

Attention::Attention(const ModelConfig& config, std::string prefix, AttentionOptions options)
    : config_(config), prefix_(std::move(prefix)), options_(std::move(options)), tables_(config) {}

StageState Attention::state() {
  const int64_t D = config_.d_model, d = config_.head_dim();
  std::vector<Param> out{shared_param(prefix_ + ".qkv.weight", {config_.qkv_width(), D}, ParamRole::matrix, qkv_CD_),
                         shared_param(prefix_ + ".output.weight", {D, D}, ParamRole::output, output_DD_)};
  out.front().parts = {{D, config_.kv_width(), config_.kv_width()}, config_.head_dim()};
  const auto add_norms = [&](std::vector<int64_t> of_queries, std::vector<int64_t> of_keys) {
    out.push_back(shared_param(prefix_ + ".q_norm.weight", std::move(of_queries), ParamRole::norm, q_norm_));
    out.push_back(shared_param(prefix_ + ".k_norm.weight", std::move(of_keys), ParamRole::norm, k_norm_));
  };
  if (config_.qk_norm == QkNorm::full) add_norms({D}, {config_.kv_width()});
  if (config_.qk_norm == QkNorm::per_head) add_norms({config_.num_heads, d}, {config_.num_kv_heads, d});
  if (config_.qk_norm == QkNorm::per_head_shared) add_norms({d}, {d});
  if (config_.attention_gate)
    out.push_back(shared_param(prefix_ + ".gate.weight", {D, D}, ParamRole::matrix, gate_DD_));
  if (config_.scalable_softmax)
    out.push_back(
        shared_param(prefix_ + ".softmax_scale.weight", {config_.num_heads}, ParamRole::norm, softmax_scale_H_));
  return {std::move(out)};
}

QkWidths Attention::norm_widths() const {
  const int64_t D = config_.d_model, kv_width = config_.kv_width(), d = config_.head_dim();
  if (config_.qk_norm == QkNorm::non_affine) return {D, kv_width, D, kv_width};
  return {D, kv_width, d, d};
}

at::Tensor RotaryTables::of(const at::Tensor& like, int64_t sequence_length) {
  const bool any_length = like.size(0) == 0;  // a micro-batch without sequences
  if (any_length && !by_length_.empty()) return by_length_.begin()->second;
  auto& table_Sd = by_length_[sequence_length];
  if (!table_Sd.defined()) {
    const auto dtype = like.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    table_Sd = kernels::rotary_table(sequence_length, config_.head_dim(), config_.rope_theta, dtype).to(like.device());
  }
  ENSURE(table_Sd.device() == like.device(), "attention: tokens on {}, rotary angles on {}", like.device().str(),
         table_Sd.device().str());
  return table_Sd;
}

at::Tensor Attention::forward(const Normed& x, const Batch& batch, SavePolicy save_policy) {
  const int64_t sequences = batch.ids_BS.size(0), positions = sequences > 0 ? x.y_ND.size(0) / sequences : 1;
  const HeadShape shape{
      sequences,        config_.num_heads, config_.num_kv_heads, config_.head_dim(), options_.spec.window_in(positions),
      config_.norm_eps, config_.clip_qkv,  save_policy,          options_.method};
  const bool separate = has_separate_norm();
  const at::Tensor none;
  // Without rotary embedding every position has the angles of the first, 0.
  return output(x, AttentionFunction::apply(
                       projected(x), Weights{separate ? none : q_norm_, separate ? none : k_norm_, softmax_scale_H_},
                       tables_.of(x.y_ND, options_.spec.rotary ? positions : 1), batch, shape));
}

at::Tensor Attention::projected(const Normed& x) const {
  const auto qkv_NC = olmoe::linear(x, qkv_CD_);
  if (!has_separate_norm()) return qkv_NC;
  return olmoe::qk_norm(qkv_NC, {q_norm_, k_norm_}, norm_widths(), config_.norm_eps);
}

at::Tensor Attention::output(const Normed& x, const at::Tensor& attended_ND) const {
  if (!config_.attention_gate) return olmoe::linear(attended_ND, output_DD_);
  return olmoe::linear(output_gate(attended_ND, olmoe::linear(x, gate_DD_)), output_DD_);
}

at::Tensor Attention::extend(const Normed& x, const CachedTokens& tokens) {
  at::NoGradGuard no_grad;
  const auto& cache = tokens.cache;
  const int64_t q_width = config_.d_model, kv_width = config_.kv_width(), window = options_.spec.window;
  const auto qkv_NC = projected(x);
  // A row of angles for each token, or one row of zeros for all; the length of the cache bounds positions.
  auto table = tables_.of(x.y_ND, options_.spec.rotary ? cache.k_BGSd.size(2) : 1);
  if (options_.spec.rotary) table = table.index_select(0, tokens.positions_N);
  const auto query_table = config_.scalable_softmax ? scaled_rows(table, tokens.positions_N, window) : table;
  const auto rotated = [&](int64_t first, int64_t width, const at::Tensor& norm, const at::Tensor& angles) {
    const auto weight = has_separate_norm() ? at::Tensor() : norm;
    const auto part_NW = qkv_NC.narrow(1, first, width);
    return kernels::norm_rotary({part_NW, weight, angles, config_.clip_qkv}, config_.norm_eps).y_NW;
  };
  auto q_ND = rotated(0, q_width, q_norm_, query_table);
  if (config_.scalable_softmax) q_ND = scale_heads(q_ND, softmax_scale_H_);
  auto v_NW = qkv_NC.narrow(1, q_width + kv_width, kv_width);
  if (const auto& clip = config_.clip_qkv) v_NW = v_NW.clamp(-*clip, *clip);
  const auto by_head = [&](const at::Tensor& x_NW) {
    return x_NW.unflatten(1, {x_NW.size(1) / config_.head_dim(), config_.head_dim()});
  };
  kernels::store_keys_values(cache, by_head(rotated(q_width, kv_width, k_norm_, table)), by_head(v_NW), tokens.runs);
  return output(x, kernels::cached_attention(by_head(q_ND), cache, tokens.runs, window).flatten(1));
}

/// Of one token: rotated queries and keys, clamped values, and 1/rms of queries and keys.
int64_t Attention::rotated_bytes(const CostContext& context) const {
  const int64_t D = config_.d_model, kv_width = config_.kv_width();
  return (D + (config_.clip_qkv ? 2 : 1) * kv_width) * context.value_bytes +
         (config_.qk_norm == QkNorm::full ? 2 * context.master_bytes : 0);
}

/// Scores of the queries with their keys, softmax, and the product with the values.
std::vector<Work> Attention::core_work(const CostContext& context) const {
  const auto N = static_cast<double>(context.tokens()), S = static_cast<double>(context.positions);
  const auto D = static_cast<double>(config_.d_model), kv_width = static_cast<double>(config_.kv_width());
  const auto H = static_cast<double>(config_.num_heads), value = static_cast<double>(context.value_bytes);
  const double flops = 4 * D * options_.spec.mean_keys(context.positions) * N;  // two GEMMs
  const double qkvy = N * static_cast<double>(config_.qkv_width() + config_.d_model) * value;
  const bool cudnn = context.attention_kernel == kernels::AttentionKernel::cudnn;
  // Five GEMMs backward for two forward: scores are recomputed.
  Work core{"attention core", Bound::attention, {flops, qkvy}, {2.5 * flops, 2 * qkvy}};
  // FlashAttention's sums of dq: each copy is cleared, written and read.
  if (!cudnn && context.deterministic_attention)
    core.backward.split = {static_cast<double>(context.sequences) * H,
                           3 * N * D * static_cast<double>(context.master_bytes)};
  if (!cudnn || !context.deterministic_attention) return {core};
  // cuDNN saves the gradients of all scores for the last of the five GEMMs, which makes dq of them. They are taken to
  // be written and read whole, above the diagonal too.
  const double score_grads = N * H * S * value;
  core.backward.flops = 2 * flops;
  core.backward.bytes += score_grads;
  return {core, {"attention's dq", Bound::attention, {}, {0.5 * flops, score_grads + N * (D + kv_width) * value}}};
}

/// Of a norm apart from the rotation.
StageCost Attention::norm_cost(const CostContext& context) const {
  StageCost out;
  if (!has_separate_norm()) return out;
  const int64_t tokens = context.tokens(), C = config_.qkv_width(), master = context.master_bytes;
  const int64_t normed = tokens * (config_.d_model + config_.kv_width()), row = tokens * C * context.value_bytes;
  const auto widths = norm_widths();
  const int64_t groups = widths.queries / widths.query_group + widths.keys / widths.key_group;
  out.work = {memory_work("QK-norm and rotary", static_cast<double>(2 * row + 6 * normed * master),
                          static_cast<double>(3 * row + 14 * normed * master))};
  out.saved = row + tokens * groups * master;  // the projection before the norm
  const bool shares_dy = config_.qk_norm == QkNorm::non_affine && context.value_bytes == master;
  const int64_t wide_rows = (shares_dy ? 2 : 3) * tokens * config_.d_model * master;  // as Norm::backward_bytes()
  out.peaks = {{"backward of the last QK-norm", out.saved, 2 * row + wide_rows}};
  return out;
}

StageCost Attention::gate_cost(const CostContext& context) const {
  StageCost out;
  if (!config_.attention_gate) return out;
  const int64_t tokens = context.tokens(), D = config_.d_model, row = tokens * D * context.value_bytes;
  const int64_t wide = tokens * D * context.master_bytes;
  const auto N = static_cast<double>(tokens), d = static_cast<double>(D);
  out.work = {
      linear_work("projections", 2 * N * d * d, N * 2 * d, d * d, context),
      memory_work("attention gate", static_cast<double>(3 * row + 4 * wide), static_cast<double>(5 * row + 10 * wide))};
  out.saved = 2 * row;  // the gate's product and the gated values
  const int64_t wide_rows = context.value_bytes == context.master_bytes ? 2 : 3;  // the gate, dz, a widened factor
  out.peaks = {{"backward of the last attention gate", 0, 2 * row + wide_rows * wide}};
  return out;
}

Attention::SoftmaxScaleCost Attention::softmax_scale_cost(const CostContext& context) const {
  if (!config_.scalable_softmax) return {};
  const int64_t queries = context.tokens() * config_.d_model;
  const int64_t scaled = queries * context.value_bytes, products = queries * context.master_bytes;
  const int64_t rows = context.documents ? context.tokens() : context.positions;
  const int64_t table = rows * config_.head_dim() * context.master_bytes;
  return {{memory_work("scalable softmax", static_cast<double>(2 * scaled + 2 * table),
                       static_cast<double>(6 * scaled + 2 * products + 2 * table))},
          table + scaled,
          // A CPU widens the queries to the dtype of the gradients first.
          table + (!context.on_gpu && context.value_bytes < context.master_bytes ? 2 : 1) * products};
}

StageCost Attention::cost(const CostContext& context) const {
  const int64_t tokens = context.tokens(), D = config_.d_model, C = config_.qkv_width();
  const int64_t value = context.value_bytes, kv_width = config_.kv_width();
  const bool recomputes = context.save_policy == SavePolicy::selective;
  const auto N = static_cast<double>(tokens);
  StageCost out;
  out.work.push_back(linear_work("projections", 2 * N * static_cast<double>(D * (C + D)),
                                 N * static_cast<double>(3 * D + C), static_cast<double>(D * (C + D)), context));
  add_work(out.work, core_work(context));
  const double qk = N * static_cast<double>((D + kv_width) * value);
  out.work.push_back(memory_work("QK-norm and rotary", 2 * qk, (recomputes ? 5 : 3) * qk));

  // The projection, the attended values, log-sum-exp of each head.
  out.saved = tokens * ((C + D) * value + config_.num_heads * context.master_bytes);
  if (!recomputes) out.saved += tokens * rotated_bytes(context);
  const auto norm = norm_cost(context), gate = gate_cost(context);
  const auto scale = softmax_scale_cost(context);
  const int64_t clamped = config_.clip_qkv ? tokens * kv_width * (value + 1) : 0;  // which values were, and their sizes
  add_work(out.work, norm.work);
  add_work(out.work, gate.work);
  add_work(out.work, scale.work);
  out.saved += norm.saved + gate.saved;
  // Gradients of the attended values and of the projection; what was not saved; what the library allocates; the rows of
  // scalable softmax. The gate has left a gradient of the input.
  out.peaks = {{"backward of the last attention", out.saved - gate.saved,
                tokens * ((D + C) * value + (recomputes ? rotated_bytes(context) : 0)) + gate.saved / 2 +
                    std::max({attention_backward_bytes(config_, context) + scale.queries, scale.products, clamped})}};
  for (const auto& point : norm.peaks)
    out.peaks.push_back({point.name, point.saved, point.temporaries + gate.saved / 2});
  for (const auto& point : gate.peaks)  // the gated values are no longer there
    out.peaks.push_back({point.name, out.saved - gate.saved / 2, point.temporaries});
  return out;
}

}  // namespace olmoe
