#include "trainer/conversion/hf_form.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "trainer/conversion/hf_names.h"
#include "trainer/conversion/param_stream.h"

namespace olmoe {
namespace {

using nlohmann::json;
constexpr const char* kLayoutVersion = "5.17.0";  // of transformers, which tests/golden holds the layout against

/// The dense twin as a model with one expert. Its router is zero: the softmax of a single logit is 1, whatever it is.
HfForm with_one_expert(const ModelConfig& dense, const ParamSource& weights) {
  ModelConfig one = dense;
  one.ffn = Ffn::moe;
  one.num_experts = one.top_k = 1;
  one.expert_width = dense.dense_hidden();
  one.dense_width = one.dense_layers = one.num_shared_experts = one.shared_expert_width = 0;
  one.moe_every = 1;
  one.shared_expert_gate = one.renormalize_scores = false;
  one.router_score = RouterScore::softmax;
  one.score_scale = 1;
  one.gate = Gate::score;
  one.balancing_bias = ExpertBias::none;
  one.balancing_bias_rate.reset();
  const auto named = [weights](const std::string& name, int64_t begin, at::Tensor out) {
    constexpr std::string_view kExperts = ".moe.experts.", kRouter = ".moe.router.";
    if (name.find(kRouter) != std::string::npos) return out.zero_(), void();
    auto ours = name;
    if (const auto at = name.find(kExperts); at != std::string::npos) ours.replace(at, kExperts.size(), ".ffn.");
    weights(ours, begin, out);
  };
  return {"OlmoeForCausalLM", one, named};
}

/// What of its experts OlmoeForCausalLM does not compute, each with its key.
std::vector<std::string> unheld_routing(const ModelConfig& config) {
  std::vector<std::string> problems;
  const auto refuse = [&](bool bad, std::string problem) {
    if (bad) problems.push_back("model." + std::move(problem));
  };
  refuse(config.router_score != RouterScore::softmax,
         fmt::format("router_score: {}: OlmoeForCausalLM has softmax alone", enum_name(config.router_score)));
  refuse(config.score_scale != 1,
         fmt::format("score_scale: {}: OlmoeForCausalLM does not multiply scores", config.score_scale));
  refuse(config.gate != Gate::score,
         fmt::format("gate: {}: OlmoeForCausalLM multiplies an expert's output by its score", enum_name(config.gate)));
  refuse(config.balancing_bias != ExpertBias::none,
         fmt::format("balancing_bias: {}: OlmoeForCausalLM chooses by scores alone", enum_name(config.balancing_bias)));
  refuse(config.num_shared_experts > 0,
         fmt::format("num_shared_experts: {}: OlmoeForCausalLM has none", config.num_shared_experts));
  refuse(config.dense_layers > 0,
         fmt::format("dense_layers: {}: OlmoeForCausalLM has experts in every block", config.dense_layers));
  refuse(config.moe_every > 1,
         fmt::format("moe_every: {}: OlmoeForCausalLM has experts in every block", config.moe_every));
  return problems;
}

/// What of norms, embedding and gate no class computes.
std::vector<std::string> unheld_variants(const ModelConfig& config) {
  std::vector<std::string> problems;
  const auto refuse = [&](bool there, const char* key, std::string_view value, const char* why) {
    if (there) problems.push_back(fmt::format("model.{}: {}: {}", key, value, why));
  };
  refuse(config.norm != NormKind::rms, "norm", enum_name(config.norm), "the classes have RMSNorm");
  refuse(config.norm_affine != NormAffine::weight, "norm_affine", enum_name(config.norm_affine),
         "norms of the classes have a weight and no bias");
  refuse(config.norm_position != NormPosition::pre, "norm_position", enum_name(config.norm_position),
         "the classes have norms before attention and feed-forward alone");
  refuse(config.attention_gate, "attention_gate", "true", "the classes gate no attention");
  refuse(config.embedding_scale != 1, "embedding_scale", fmt::format("{}", config.embedding_scale),
         "the classes take embedded tokens as they are");
  refuse(config.embedding_norm, "embedding_norm", "true", "the classes take embedded tokens as they are");
  refuse(config.qk_norm != QkNorm::none && config.qk_norm != QkNorm::full, "qk_norm", enum_name(config.qk_norm),
         "the one class with QK-norm normalises whole vectors, with a weight");
  return problems;
}

/// What of attention neither class computes, each with its key.
std::vector<std::string> unheld_attention(const ModelConfig& config) {
  std::vector<std::string> problems;
  const auto refuse = [&](bool bad, std::string problem) {
    if (bad) problems.push_back("model." + std::move(problem));
  };
  refuse(config.has_windows(),
         fmt::format("attention_windows: [{}]: OlmoeForCausalLM and LlamaForCausalLM see all keys",
                     fmt::join(config.attention_windows, ", ")));
  refuse(std::ranges::count(config.position_embeddings, PositionEmbedding::none) > 0,
         "position_embeddings: none: OlmoeForCausalLM and LlamaForCausalLM have rotary embedding in every block");
  refuse(config.scalable_softmax, "scalable_softmax: true: OlmoeForCausalLM and LlamaForCausalLM have none");
  return problems;
}

/// What of the model no class computes, each with its key.
std::vector<std::string> unheld(const ModelConfig& config) {
  auto problems = unheld_variants(config);
  std::ranges::move(unheld_attention(config), std::back_inserter(problems));
  if (config.has_experts()) std::ranges::move(unheld_routing(config), std::back_inserter(problems));
  const bool norms = config.qk_norm != QkNorm::none;
  if (config.capacity_factor)
    problems.push_back(fmt::format("model.capacity_factor: {}: no class drops assignments", *config.capacity_factor));
  if (config.has_experts() && !norms)
    problems.push_back("model.qk_norm: none: OlmoeForCausalLM, the class with experts, normalises queries and keys");
  if (!config.has_experts() && !norms && config.clip_qkv)
    problems.push_back(fmt::format("model.clip_qkv: {}: LlamaForCausalLM, the class without QK-norm, clips nothing",
                                   *config.clip_qkv));
  return problems;
}

/// Parameters of which some elements have no place in the class's tensors.
std::vector<std::string> unplaced(const ModelConfig& config) {
  std::map<std::string, int64_t> placed;
  for (const auto& tensor : hf_tensors(config)) placed[tensor.name] += numel_of(tensor.shape);
  std::vector<std::string> problems;
  for (const auto& param : whole_params(config))
    if (placed[param.name] != param.numel)
      problems.push_back(fmt::format("{}: has {} elements, the class's tensors hold {} of them", param.name,
                                     param.numel, placed[param.name]));
  return problems;
}

json or_null(const std::optional<int64_t>& id) { return id ? json(*id) : json(); }

void add_experts(json& out, const ModelConfig& config) {
  out["num_experts"] = config.num_experts;
  out["num_experts_per_tok"] = config.top_k;
  out["intermediate_size"] = config.expert_width;
  out["norm_topk_prob"] = config.renormalize_scores;
  out["clip_qkv"] = config.clip_qkv ? json(*config.clip_qkv) : json();
  out["output_router_logits"] = false;
  out["router_aux_loss_coef"] = config.load_balancing_weight;
}

void add_dense(json& out, const ModelConfig& config) {
  out["intermediate_size"] = config.dense_hidden();
  out["head_dim"] = config.head_dim();
  out["mlp_bias"] = false;
  out["pretraining_tp"] = 1;
}

}  // namespace

HfForm hf_form(const ModelConfig& config, const ParamSource& weights) {
  auto problems = unheld(config);
  const bool one_expert = !config.has_experts() && config.qk_norm == QkNorm::full;
  auto form = one_expert ? with_one_expert(config, weights)
                         : HfForm{config.has_experts() ? "OlmoeForCausalLM" : "LlamaForCausalLM", config, weights};
  if (problems.empty()) problems = unplaced(form.config);
  if (!problems.empty())
    throw ConfigError(fmt::format("no class of Hugging Face transformers computes exactly this model:\n  {}",
                                  fmt::join(problems, "\n  ")));
  return form;
}

json hf_config_json(const HfForm& form, int64_t max_positions, const std::string& dtype, const SpecialIds& ids) {
  const auto& config = form.config;
  json out{{"architectures", {form.architecture}},
           {"model_type", config.has_experts() ? "olmoe" : "llama"},
           {"transformers_version", kLayoutVersion},
           {"dtype", dtype},
           {"torch_dtype", dtype},  // its name before version 5
           {"vocab_size", config.vocab_size},
           {"hidden_size", config.d_model},
           {"num_hidden_layers", config.num_layers},
           {"num_attention_heads", config.num_heads},
           {"num_key_value_heads", config.num_kv_heads},
           {"max_position_embeddings", max_positions},
           {"rms_norm_eps", config.norm_eps},
           {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", config.rope_theta}}},
           {"rope_theta", config.rope_theta},  // its place before version 5
           {"initializer_range", config.init_std},
           {"hidden_act", "silu"},
           {"attention_bias", false},
           {"attention_dropout", 0.0},
           {"tie_word_embeddings", config.tie_embeddings},
           {"use_cache", true},
           {"bos_token_id", or_null(ids.bos)},
           {"eos_token_id", or_null(ids.eos)},
           {"pad_token_id", or_null(ids.pad)}};
  config.has_experts() ? add_experts(out, config) : add_dense(out, config);
  return out;
}

json hf_generation_json(const SpecialIds& ids) {
  json out{{"_from_model_config", true}, {"transformers_version", kLayoutVersion}};
  if (ids.bos) out["bos_token_id"] = *ids.bos;
  if (ids.eos) out["eos_token_id"] = *ids.eos;
  if (ids.pad) out["pad_token_id"] = *ids.pad;
  return out;
}

}  // namespace olmoe
