// The whole model in plain differentiable ATen, as textbooks write it: every expert on every token.
// Shapes: B sequences of S tokens, N = B*S, H query and G key/value heads of width d, E experts, L layers.
#pragma once
#include "core/error.h"
#include "support/hidden_keys.h"
#include "support/kept_assignments.h"
#include "support/model_fixtures.h"

namespace olmoe::test {

/// Reads parameters of our names and gives the model's outputs as functions of them.
class DenseOracle {
 public:
  struct Losses {
    at::Tensor cross_entropy, balance, z;  ///< mean over targets; unweighted means over layers
    at::Tensor output_z;                   ///< unweighted mean over targets
    at::Tensor shares_E, probs_E;          ///< sums over layers
    /// What training minimises.
    at::Tensor total(const ModelConfig& model) const {
      return cross_entropy + model.load_balancing_weight * balance + model.router_z_weight * z +
             model.output_z_weight * output_z;
    }
  };

  /// `weights` are leaves of the shapes of `model`; gradients land in them. `buffers`: of the routers, by name.
  DenseOracle(const ModelConfig& model, FlatParams weights, FlatParams buffers = {})
      : model_(model), weights_(std::move(weights)), buffers_(std::move(buffers)) {}

  /// logits [N, V] of the batch; fills the auxiliary losses.
  at::Tensor logits(const Batch& batch, Losses& losses) const {
    const auto& ids_BS = batch.ids_BS;
    auto x_ND = at::embedding(weight("embedding"), ids_BS.flatten()) * model_.embedding_scale;
    if (model_.embedding_norm) x_ND = norm(x_ND, "embedding_norm");
    losses.balance = losses.z = at::zeros({}, x_ND.options());
    losses.shares_E = losses.probs_E = at::zeros({model_.num_experts}, x_ND.options());
    const auto blocks = model_.blocks();
    for (int64_t l = 0; l < model_.num_layers; ++l) {
      const auto block = fmt::format("blocks.{}.", l);
      x_ND = x_ND + branch(x_ND, block + "attention", [&](const at::Tensor& in_ND) {
               return attention(in_ND, block + "attention.", hidden_keys(batch, model_.attention_window(l)),
                                blocks[static_cast<size_t>(l)].attention.rotary);
             });
      x_ND = x_ND + branch(x_ND, block + "ffn", [&](const at::Tensor& in_ND) {
               return blocks[static_cast<size_t>(l)].feed_forward.has_experts()
                          ? moe(in_ND, block + "moe.", ids_BS.size(0), losses)
                          : dense(in_ND, block + "ffn.");
             });
    }
    const auto of_pairs = static_cast<double>(model_.num_experts) / std::pow(model_.num_moe_layers(), 2);
    if (model_.load_balancing_over_layers) losses.balance = (losses.shares_E * losses.probs_E).sum() * of_pairs;
    return norm(x_ND, "final_norm").matmul(weight(model_.tie_embeddings ? "embedding" : "head").t());
  }

  Losses losses(const Batch& batch) const {
    Losses out;
    const auto logits_NV = logits(batch, out);
    const auto targets_N = batch.targets_BS.flatten(), counted_N = targets_N.ne(kIgnoredTarget).to(at::kDouble);
    out.cross_entropy = at::cross_entropy_loss(logits_NV, targets_N);
    out.output_z = (logits_NV.logsumexp(-1).square() * counted_N).sum() / counted_N.sum();
    return out;
  }

 private:
  at::Tensor weight(const std::string& name) const { return weights_.at(name + ".weight"); }

  at::Tensor rms(const at::Tensor& x) const { return x * (x.square().mean(-1, true) + model_.norm_eps).rsqrt(); }

  at::Tensor norm(const at::Tensor& x_ND, const std::string& name) const {
    auto y_ND = model_.norm == NormKind::rms ? rms(x_ND) : rms(x_ND - x_ND.mean(-1, true));
    if (model_.norm_affine != NormAffine::none) y_ND = y_ND * weight(name);
    return model_.norm_affine == NormAffine::weight_and_bias ? y_ND + weights_.at(name + ".bias") : y_ND;
  }

  template <class F>
  at::Tensor branch(const at::Tensor& x_ND, const std::string& name, const F& compute) const {
    const bool before = model_.norm_position != NormPosition::post, after = model_.norm_position != NormPosition::pre;
    const auto y_ND = compute(before ? norm(x_ND, name + "_norm") : x_ND);
    return after ? norm(y_ND, name + "_post_norm") : y_ND;
  }

  /// x_NW are the projected queries or keys.
  at::Tensor qk_norm(const at::Tensor& x_NW, const std::string& name) const {
    const auto heads_NHd = x_NW.unflatten(1, {-1, model_.head_dim()});
    switch (model_.qk_norm) {
      case QkNorm::none:
        return x_NW;
      case QkNorm::full:
        return rms(x_NW) * weight(name);
      case QkNorm::non_affine:
        return rms(x_NW);
      case QkNorm::per_head:
      case QkNorm::per_head_shared:
        return (rms(heads_NHd) * weight(name)).flatten(1);
    }
    throw Error("no such norm");
  }

  at::Tensor rotate(const at::Tensor& x_BHSd) const {
    const int64_t length = x_BHSd.size(2), half = model_.head_dim() / 2;
    const auto exponents = at::arange(half, x_BHSd.options()) / static_cast<double>(half);
    const auto turns_Sh = at::arange(length, x_BHSd.options()).unsqueeze(1) * at::pow(model_.rope_theta, -exponents);
    const auto cos = turns_Sh.cos(), sin = turns_Sh.sin();
    const auto a = x_BHSd.narrow(-1, 0, half), b = x_BHSd.narrow(-1, half, half);
    return at::cat({a * cos - b * sin, b * cos + a * sin}, -1);
  }

  at::Tensor attention(const at::Tensor& x_ND, const std::string& name, const at::Tensor& hidden_BSS,
                       bool rotary) const {
    const int64_t sequences = hidden_BSS.size(0), d = model_.head_dim(),
                  queries_per_key = model_.num_heads / model_.num_kv_heads;
    auto parts = x_ND.matmul(weight(name + "qkv").t())
                     .split_with_sizes({model_.d_model, model_.kv_width(), model_.kv_width()}, 1);
    parts[0] = qk_norm(parts[0], name + "q_norm"), parts[1] = qk_norm(parts[1], name + "k_norm");
    for (auto& part : parts) {
      if (model_.clip_qkv) part = part.clamp(-*model_.clip_qkv, *model_.clip_qkv);
      part = part.reshape({sequences, -1, part.size(1) / d, d}).transpose(1, 2);
    }
    if (rotary) parts[0] = rotate(parts[0]), parts[1] = rotate(parts[1]);
    const auto k = parts[1].repeat_interleave(queries_per_key, 1), v = parts[2].repeat_interleave(queries_per_key, 1);
    auto scores_BHSS = parts[0].matmul(k.transpose(2, 3)) / std::sqrt(static_cast<double>(d));
    if (model_.scalable_softmax) {
      const auto log_B1S1 = hidden_BSS.logical_not().sum(-1).to(x_ND.dtype()).log().unsqueeze(1).unsqueeze(3);
      scores_BHSS = scores_BHSS * weight(name + "softmax_scale").view({1, -1, 1, 1}) * log_B1S1;
    }
    const auto y_BHSd = scores_BHSS.masked_fill(hidden_BSS.unsqueeze(1), -INFINITY).softmax(-1).matmul(v);
    auto y_ND = y_BHSd.transpose(1, 2).reshape_as(x_ND);
    if (model_.attention_gate) y_ND = y_ND * x_ND.matmul(weight(name + "gate").t()).sigmoid();
    return y_ND.matmul(weight(name + "output").t());
  }

  at::Tensor moe(const at::Tensor& x_ND, const std::string& name, int64_t sequences, Losses& losses) const {
    const auto logits_NE = x_ND.matmul(weight(name + "router").t());
    const bool sigmoid = model_.router_score == RouterScore::sigmoid;
    const auto all_NE = sigmoid ? logits_NE.sigmoid() : logits_NE.softmax(-1);
    const auto probs_NE = all_NE / all_NE.sum(-1, true);  // of the load-balancing loss
    const auto bias = buffers_.find(name + "router.balancing_bias");
    auto keys_NE = model_.balancing_bias == ExpertBias::quantile ? logits_NE : all_NE;
    if (bias != buffers_.end()) keys_NE = keys_NE + bias->second;
    const auto chosen_NE = chosen(model_, keys_NE, all_NE, sequences);
    auto scores_NE = all_NE * chosen_NE;
    if (model_.renormalize_scores) scores_NE = scores_NE / scores_NE.sum(-1, true);
    const auto has_room_NE = has_room(model_, scores_NE, chosen_NE);
    scores_NE = (model_.gate == Gate::constant ? chosen_NE : scores_NE) * model_.score_scale;
    const auto moe_layers = static_cast<double>(model_.num_moe_layers());
    const bool by_sequence = model_.load_balancing_granularity == BalanceGranularity::sequence;
    auto group_mean = [&](const at::Tensor& x_NE) {
      return x_NE.reshape({by_sequence ? sequences : 1, -1, model_.num_experts}).mean(1);
    };
    auto shares_UE = group_mean(chosen_NE / chosen_NE.sum()) * static_cast<double>(chosen_NE.size(0));
    if (const auto counts = buffers_.find(name + "router.previous_counts"); counts != buffers_.end())
      shares_UE = (counts->second / counts->second.sum()).unsqueeze(0);
    const auto balance = (shares_UE * group_mean(probs_NE)).sum(1).mean() * static_cast<double>(model_.num_experts);
    losses.balance = losses.balance + balance / moe_layers;
    losses.shares_E = losses.shares_E + shares_UE.mean(0);
    losses.probs_E = losses.probs_E + probs_NE.mean(0);
    losses.z = losses.z + logits_NE.logsumexp(-1).square().mean() / moe_layers;

    const bool latent = model_.latent_dim > 0;
    const auto in_NW = latent ? x_ND.matmul(weight(name + "latent_down").t()) : x_ND;
    const auto of_experts = [&](const char* part) { return weight(experts_of(model_, name) + part); };
    const auto gate_up_NE = at::einsum("nw,efw->nef", {in_NW, of_experts("gate_up")}).chunk(2, -1);
    const auto hidden_NEF = at::silu(gate_up_NE[0]) * gate_up_NE[1];
    auto y_ND = at::einsum("ne,nef,ewf->nw", {scores_NE * has_room_NE, hidden_NEF, of_experts("down")});
    if (latent) y_ND = y_ND.matmul(weight(name + "latent_up").t());
    if (model_.num_shared_experts == 0) return y_ND;
    const auto shared_ND = dense(x_ND, name + "shared.");
    if (!model_.shared_expert_gate) return y_ND + shared_ND;
    return y_ND + shared_ND * x_ND.matmul(weight(name + "shared.gate").t()).sigmoid();
  }

  at::Tensor dense(const at::Tensor& x_ND, const std::string& name) const {
    const auto gate_up = x_ND.matmul(weight(name + "gate_up").t()).chunk(2, -1);
    return (at::silu(gate_up[0]) * gate_up[1]).matmul(weight(name + "down").t());
  }

  const ModelConfig& model_;
  FlatParams weights_, buffers_;
};

}  // namespace olmoe::test
