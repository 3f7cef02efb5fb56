#include "trainer/conversion/hf_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "trainer/config/model_differences.h"
#include "trainer/conversion/hf_folder.h"

namespace olmoe {
namespace {

using nlohmann::json;
constexpr const char* kLayoutVersion = "5.17.0";  // of transformers, which tests/golden holds the layout against
constexpr const char *kFull = "full_attention", *kSliding = "sliding_attention";

json or_null(const std::optional<int64_t>& id) { return id ? json(*id) : json(); }

void add_dense(json& out, const ModelConfig& config) {
  out["intermediate_size"] = config.dense_hidden();
  out["head_dim"] = config.head_dim();
  out["mlp_bias"] = false;
  out["pretraining_tp"] = 1;
}

void add_experts(json& out, const HfClass& hf, const ModelConfig& config) {
  out["intermediate_size"] = config.dense_hidden();
  out[hf.experts_key] = config.num_experts;
  if (hf.experts_key_5 != nullptr) out[hf.experts_key_5] = config.num_experts;
  out["num_experts_per_tok"] = config.top_k;
  out[expert_width_key(hf)] = config.expert_width;
  out["norm_topk_prob"] = config.renormalize_scores;
  if (hf.clips) out["clip_qkv"] = config.clip_qkv ? json(*config.clip_qkv) : json();
  if (hf.router_score == RouterScore::sigmoid) {
    out["routed_scaling_factor"] = config.score_scale;
    out["n_group"] = out["topk_group"] = 1;
  } else {
    out["output_router_logits"] = false;
    out["router_aux_loss_coef"] = config.load_balancing_weight;
  }
  if (hf.shared_experts == SharedExperts::gated) out["shared_expert_intermediate_size"] = config.shared_hidden();
  if (hf.shared_experts == SharedExperts::several)
    out["n_shared_experts"] = config.shared_hidden() / config.expert_width;
}

void add_dense_blocks(json& out, const HfClass& hf, const ModelConfig& config) {
  if (hf.dense_blocks == DenseBlocks::first) out["first_k_dense_replace"] = leading_dense_blocks(config);
  if (hf.dense_blocks != DenseBlocks::any) return;
  auto dense = json::array();
  for (int64_t l = 0; l < config.num_layers; ++l)
    if (config.dense_layers > 0 && !config.is_moe_layer(l)) dense.push_back(l);
  out["decoder_sparse_step"] = config.dense_layers > 0 ? 1 : config.moe_every;
  out["mlp_only_layers"] = dense;
}

/// A pattern that is said by block, also where there is no window.
void add_layer_types(json& out, const ModelConfig& config) {
  auto types = json::array();
  for (const auto& block : config.blocks()) types.push_back(block.attention.window > 0 ? kSliding : kFull);
  out["layer_types"] = types;
  out["max_window_layers"] = config.num_layers;  // of no effect beside layer_types
}

void add_attention(json& out, const HfClass& hf, const ModelConfig& config) {
  int64_t window = 0;
  for (const auto& block : config.blocks()) window = std::max(window, block.attention.window);
  if (hf.windows != Windows::none) out["sliding_window"] = window > 0 ? json(window) : json();
  if (hf.windows == Windows::one) {
    out["use_sliding_window"] = window > 0;
    out["head_dim"] = config.head_dim();
  }
  if (hf.windows == Windows::by_block) add_layer_types(out, config);
  if (!hf.qkv_bias) return;
  out["qkv_bias"] = out["use_sliding_window"] = false;
  out["sliding_window"] = 0;
  add_layer_types(out, config);
}

}  // namespace

json hf_config_json(const HfForm& form, int64_t max_positions, const std::string& dtype, const SpecialIds& ids) {
  const auto& config = form.config;
  const auto& hf = *form.hf;
  json out{{"architectures", {std::string(hf.architecture)}},
           {"model_type", std::string(hf.model_type)},
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
  if (!hf.experts) return add_dense(out, config), out;
  add_experts(out, hf, config);
  add_dense_blocks(out, hf, config);
  add_attention(out, hf, config);
  return out;
}

json hf_generation_json(const SpecialIds& ids) {
  json out{{"_from_model_config", true}, {"transformers_version", kLayoutVersion}};
  if (ids.bos) out["bos_token_id"] = *ids.bos;
  if (ids.eos) out["eos_token_id"] = *ids.eos;
  if (ids.pad) out["pad_token_id"] = *ids.pad;
  return out;
}

namespace {

/// Reads keys of a config.json and collects their problems.
class HfConfigReader {
 public:
  explicit HfConfigReader(std::string path) : path_(std::move(path)), json_(read_hf_json(path_)) {}

  template <class T>
  T get(const std::string& key, std::optional<T> absent = {}) {
    const bool missing = !has(key);
    if (missing && absent) return *absent;
    if (missing) return problem(fmt::format("{} is missing", key)), T{};
    return value<T>(key, at(key));
  }
  /// Empty where it is missing.
  template <class T>
  std::vector<T> list(const std::string& key) {
    std::vector<T> out;
    if (!has(key)) return out;
    if (!at(key).is_array()) return problem(fmt::format("{} has the wrong type", key)), out;
    for (const auto& item : at(key)) out.push_back(value<T>(key, item));
    return out;
  }
  bool has(const std::string& key) const { return json_.contains(key) && !at(key).is_null(); }
  bool is_null(const std::string& key) const { return json_.contains(key) && at(key).is_null(); }
  const json& at(const std::string& key) const { return *json_.find(key); }
  void require(bool good, const std::string& what) {
    if (!good) problem(what);
  }
  void problem(const std::string& what) { problems_.push_back(what); }
  void finish() const {
    if (!problems_.empty()) throw ConfigError(fmt::format("{}: {}", path_, fmt::join(problems_, "; ")));
  }

 private:
  template <class T>
  T value(const std::string& key, const json& found) {
    // The library would cut 8.7 to 8, and take true for 1.
    const bool whole = !std::is_same_v<T, int64_t> || found.is_number_integer();
    try {
      if (whole) return found.get<T>();
    } catch (const json::exception&) {
    }
    return problem(fmt::format("{} has the wrong type", key)), T{};
  }

  std::string path_;
  json json_;
  std::vector<std::string> problems_;
};

const HfClass* find_class(HfConfigReader& in) {
  const auto type = in.get<std::string>("model_type");
  std::vector<std::string_view> known;
  for (const auto& hf : hf_classes()) {
    if (hf.model_type == type) return &hf;
    known.push_back(hf.model_type);
  }
  in.problem(fmt::format("model_type {} is none of {}", type, fmt::join(known, ", ")));
  return nullptr;
}

double rope_theta(HfConfigReader& in, double absent) {
  const char* key = in.has("rope_parameters") ? "rope_parameters" : in.has("rope_scaling") ? "rope_scaling" : nullptr;
  if (key == nullptr) return in.get<double>("rope_theta", absent);
  try {
    const auto& rope = in.at(key);
    const auto type = rope.value("rope_type", rope.value("type", std::string("default")));
    in.require(type == "default", fmt::format("rope type {} is not supported", type));
    return rope.contains("rope_theta") ? rope["rope_theta"].get<double>() : in.get<double>("rope_theta", absent);
  } catch (const json::exception&) {
    return in.problem(fmt::format("{} has the wrong type", key)), absent;
  }
}

void read_sizes(HfConfigReader& in, const HfClass& hf, ModelConfig& out) {
  out.vocab_size = in.get<int64_t>("vocab_size");
  out.d_model = in.get<int64_t>("hidden_size");
  out.num_layers = in.get<int64_t>("num_hidden_layers");
  out.num_heads = in.get<int64_t>("num_attention_heads");
  out.num_kv_heads =
      hf.kv_heads ? in.get<int64_t>("num_key_value_heads") : in.get<int64_t>("num_key_value_heads", out.num_heads);
  out.norm_eps = in.get<double>("rms_norm_eps");
  out.init_std = in.get<double>("initializer_range", 0.02);
  out.rope_theta = rope_theta(in, hf.rope_theta);
  in.require(in.get<std::string>("hidden_act", std::string("silu")) == "silu", "hidden_act is not silu");
  in.require(!in.get<bool>("attention_bias", false), "attention_bias is not supported");
  in.require(!hf.qkv_bias || !in.get<bool>("qkv_bias", true), "qkv_bias is not supported");
  out.tie_embeddings = in.get<bool>("tie_word_embeddings", false);
  if (out.num_heads > 0)
    in.require(in.get<int64_t>("head_dim", out.head_dim()) == out.head_dim(), "head_dim is not hidden_size / heads");
}

void read_dense(HfConfigReader& in, ModelConfig& out) {
  out.ffn = Ffn::dense;
  out.dense_width = in.get<int64_t>("intermediate_size");
  in.require(!in.get<bool>("mlp_bias", false), "mlp_bias is not supported");
}

void read_experts(HfConfigReader& in, const HfClass& hf, ModelConfig& out) {
  constexpr const char* kEveryClass = "num_local_experts";  // takes it too
  out.ffn = Ffn::moe;
  out.num_experts = in.get<int64_t>(in.has(kEveryClass) && !in.has(hf.experts_key) ? kEveryClass : hf.experts_key);
  out.top_k = in.get<int64_t>("num_experts_per_tok");
  out.expert_width = in.get<int64_t>(expert_width_key(hf));
  out.renormalize_scores = in.get<bool>("norm_topk_prob", false);
  if (hf.clips && in.has("clip_qkv")) out.clip_qkv = in.get<double>("clip_qkv");
  out.router_score = hf.router_score;
  if (hf.router_score == RouterScore::sigmoid) {
    out.balancing_bias = ExpertBias::loss_free;
    out.score_scale = in.get<double>("routed_scaling_factor", 1.0);
    in.require(in.get<int64_t>("n_group", 1) == 1, "n_group is not 1: groups of experts are not supported");
  }
  if (hf.shared_experts == SharedExperts::gated) {
    out.num_shared_experts = 1;
    out.shared_expert_gate = true;
    out.shared_expert_width = in.get<int64_t>("shared_expert_intermediate_size");
    in.require(out.shared_expert_width > 0, "shared_expert_intermediate_size is not positive");
  }
  if (hf.shared_experts == SharedExperts::several) {
    out.num_shared_experts = in.get<int64_t>("n_shared_experts");
    in.require(out.num_shared_experts > 0, "n_shared_experts is not positive");
  }
}

/// Sets dense_layers and moe_every to what makes exactly the blocks in `dense` dense, if anything does.
bool set_dense_blocks(ModelConfig& out, const std::vector<bool>& dense) {
  const auto first = std::ranges::find(dense, false) - dense.begin();
  for (out.moe_every = 1; out.moe_every <= first + 1; ++out.moe_every) {
    out.dense_layers = first + 1 - out.moe_every;
    int64_t l = 0;
    while (l < out.num_layers && dense[static_cast<size_t>(l)] != out.is_moe_layer(l)) ++l;
    if (l == out.num_layers) return true;
  }
  return false;
}

void read_dense_blocks(HfConfigReader& in, const HfClass& hf, ModelConfig& out) {
  if (hf.dense_blocks == DenseBlocks::none) return;
  if (hf.dense_blocks == DenseBlocks::first) {
    out.dense_layers = in.get<int64_t>("first_k_dense_replace", 0);
  } else {
    const auto listed = in.list<int64_t>("mlp_only_layers");
    out.moe_every = in.get<int64_t>("decoder_sparse_step", 1);
    if (out.moe_every < 1) return in.problem("decoder_sparse_step is not positive");
    std::vector<bool> dense(static_cast<size_t>(std::clamp<int64_t>(out.num_layers, 0, 1 << 10)));
    for (size_t l = 0; l < dense.size(); ++l)
      dense[l] = (static_cast<int64_t>(l) + 1) % out.moe_every != 0 || std::ranges::count(listed, l) > 0;
    if (!listed.empty() && (std::ranges::count(dense, false) == 0 || !set_dense_blocks(out, dense)))
      return in.problem(fmt::format("mlp_only_layers [{}]: after the first dense blocks not every n-th has experts",
                                    fmt::join(listed, ", ")));
  }
  if (in.has("intermediate_size") || leading_dense_blocks(out) > 0)
    out.dense_width = in.get<int64_t>("intermediate_size");
}

/// Which blocks have a window, as transformers has it where no layer_types say it.
std::vector<std::string> layer_types(HfConfigReader& in, const ModelConfig& model) {
  auto out = in.list<std::string>("layer_types");
  if (in.has("layer_types")) return out;
  const auto full = in.get<int64_t>("max_window_layers", 62);
  for (int64_t l = 0; l < model.num_layers; ++l)
    out.emplace_back(!in.is_null("sliding_window") && l >= full ? kSliding : kFull);
  return out;
}

void read_windows(HfConfigReader& in, const HfClass& hf, ModelConfig& out) {
  if (hf.windows == Windows::by_block) {
    const auto types = layer_types(in, out);
    in.require(std::ssize(types) == out.num_layers, "layer_types is not as long as num_hidden_layers");
    for (const auto& type : types) {
      in.require(type == kFull || type == kSliding, fmt::format("layer_types: {} is not supported", type));
      out.attention_windows.push_back(type == kSliding ? in.get<int64_t>("sliding_window") : 0);
    }
    if (!out.has_windows()) out.attention_windows.clear();
    return;
  }
  const bool slides = in.get<bool>("use_sliding_window", false);
  if (hf.windows == Windows::one) {
    if (slides) out.attention_windows = {in.get<int64_t>("sliding_window")};
    return;
  }
  in.require(!slides, "use_sliding_window is not supported");
  for (const auto& type : in.list<std::string>("layer_types"))
    in.require(type == kFull, fmt::format("layer_types: {} is not supported", type));
}

}  // namespace

ModelConfig read_hf_config(const std::string& folder, const ModelConfig& trained) {
  ensure_hf_folder(folder);
  HfConfigReader in(folder + "/config.json");
  const auto* hf = find_class(in);
  in.finish();
  auto out = with_training_keys({}, trained);
  out.norm_position = hf->norm_position;
  out.qk_norm = hf->qk_norm;
  read_sizes(in, *hf, out);
  hf->experts ? read_experts(in, *hf, out) : read_dense(in, out);
  for (const auto& problem : values_out_of_range(out, "config")) in.problem(problem);
  in.finish();  // a number of blocks to count to
  if (hf->experts) read_dense_blocks(in, *hf, out);
  read_windows(in, *hf, out);
  if (out.balancing_bias == ExpertBias::none) out.balancing_bias_rate.reset();
  for (const auto& problem : validate(out, "config")) in.problem(problem);
  in.finish();
  return out;
}

}  // namespace olmoe
