#include "trainer/conversion/hf_checkpoint.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "trainer/conversion/hf_folder.h"

namespace olmoe {
namespace {

using nlohmann::json;

/// Reads keys of a config.json and collects their problems.
class HfConfigReader {
 public:
  HfConfigReader(std::string path) : path_(std::move(path)), json_(read_hf_json(path_)) {}

  template <class T>
  T get(const char* key, std::optional<T> absent = {}) {
    const auto found = json_.find(key);
    const bool missing = found == json_.end() || found->is_null();
    if (missing && absent) return *absent;
    if (missing) return problem(fmt::format("{} is missing", key)), T{};
    // The library would cut 8.7 to 8, and take true for 1.
    const bool whole = !std::is_same_v<T, int64_t> || found->is_number_integer();
    try {
      if (whole) return found->get<T>();
    } catch (const json::exception&) {
    }
    return problem(fmt::format("{} has the wrong type", key)), T{};
  }
  bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  const json& at(const char* key) const { return json_.at(key); }
  void require(bool good, const std::string& what) {
    if (!good) problem(what);
  }
  void problem(const std::string& what) { problems_.push_back(what); }
  void finish() const {
    if (!problems_.empty()) throw ConfigError(fmt::format("{}: {}", path_, fmt::join(problems_, "; ")));
  }

 private:
  std::string path_;
  json json_;
  std::vector<std::string> problems_;
};

double rope_theta(HfConfigReader& in) {
  const char* key = in.has("rope_parameters") ? "rope_parameters" : in.has("rope_scaling") ? "rope_scaling" : nullptr;
  if (key == nullptr) return in.get<double>("rope_theta", 10000.0);
  try {
    const auto& rope = in.at(key);
    const auto type = rope.value("rope_type", rope.value("type", std::string("default")));
    in.require(type == "default", fmt::format("rope type {} is not supported", type));
    return rope.contains("rope_theta") ? rope["rope_theta"].get<double>() : in.get<double>("rope_theta", 10000.0);
  } catch (const json::exception&) {
    return in.problem(fmt::format("{} has the wrong type", key)), 10000.0;
  }
}

void read_moe(HfConfigReader& in, ModelConfig& out) {
  out.ffn = Ffn::moe;
  out.num_experts = in.get<int64_t>("num_experts");
  out.top_k = in.get<int64_t>("num_experts_per_tok");
  out.expert_width = in.get<int64_t>("intermediate_size");
  out.renormalize_scores = in.get<bool>("norm_topk_prob", false);
  if (in.has("clip_qkv")) out.clip_qkv = in.get<double>("clip_qkv");
}

void read_dense(HfConfigReader& in, ModelConfig& out) {
  out.ffn = Ffn::dense;
  out.dense_width = in.get<int64_t>("intermediate_size");
  out.qk_norm = QkNorm::none;
  in.require(!in.get<bool>("mlp_bias", false), "mlp_bias is not supported");
}

}  // namespace

ModelConfig read_hf_config(const std::string& folder, const ModelConfig& defaults) {
  ensure_hf_folder(folder);
  HfConfigReader in(folder + "/config.json");
  ModelConfig out = defaults;
  out.clip_qkv.reset();
  static_cast<BlockVariants&>(out) = {.output_z_weight = defaults.output_z_weight, .init = defaults.init};
  const auto type = in.get<std::string>("model_type");
  in.require(type == "olmoe" || type == "llama", fmt::format("model_type {} is neither olmoe nor llama", type));
  out.vocab_size = in.get<int64_t>("vocab_size");
  out.d_model = in.get<int64_t>("hidden_size");
  out.num_layers = in.get<int64_t>("num_hidden_layers");
  out.num_heads = in.get<int64_t>("num_attention_heads");
  out.num_kv_heads = in.get<int64_t>("num_key_value_heads", out.num_heads);
  out.norm_eps = in.get<double>("rms_norm_eps");
  out.init_std = in.get<double>("initializer_range", 0.02);
  out.rope_theta = rope_theta(in);
  in.require(in.get<std::string>("hidden_act", std::string("silu")) == "silu", "hidden_act is not silu");
  in.require(!in.get<bool>("attention_bias", false), "attention_bias is not supported");
  out.tie_embeddings = in.get<bool>("tie_word_embeddings", false);
  if (out.num_heads > 0)
    in.require(in.get<int64_t>("head_dim", out.head_dim()) == out.head_dim(), "head_dim is not hidden_size / heads");
  out.qk_norm = QkNorm::full;
  type == "llama" ? read_dense(in, out) : read_moe(in, out);
  for (const auto& problem : validate(out, "config")) in.problem(problem);
  in.finish();
  return out;
}

namespace {

std::unique_ptr<safetensors::File> open_shard(const std::string& path) {
  try {
    return std::make_unique<safetensors::File>(path);
  } catch (const Error& error) {
    throw CheckpointError(error.what());
  }
}

}  // namespace

HfWeights::HfWeights(const std::string& folder, const ModelConfig& config) {
  std::map<std::string, const safetensors::File*> found;
  std::vector<std::string> problems;
  for (const auto& path : hf_weight_files(folder)) {
    files_.push_back(open_shard(path));
    for (const auto& [name, entry] : files_.back()->entries())
      if (!found.emplace(name, files_.back().get()).second) problems.push_back(name + " is in two files");
  }
  for (const auto& tensor : hf_tensors(config)) {
    const auto at = found.find(tensor.hf_name);
    if (at == found.end()) {
      problems.push_back(tensor.hf_name + " is missing");
      continue;
    }
    const auto& entry = at->second->entry(tensor.hf_name);
    if (entry.shape != tensor.shape)
      problems.push_back(fmt::format("{} is [{}], expected [{}]", tensor.hf_name, fmt::join(entry.shape, ", "),
                                     fmt::join(tensor.shape, ", ")));
    else
      pieces_.add(tensor.name, tensor.first, entry.dtype, at->second->bytes(tensor.hf_name));
    dtypes_.emplace(tensor.name, entry.dtype);
    found.erase(at);
  }
  for (const auto& [name, file] : found) problems.push_back(name + " is not part of this model");
  constexpr size_t kShown = 20;
  if (problems.empty()) return;
  const auto total = problems.size();
  if (total > kShown) problems.resize(kShown);
  throw CheckpointError(
      fmt::format("{}: {} tensors do not fit the model: {}", folder, total, fmt::join(problems, "; ")));
}

void HfWeights::read(const std::string& name, int64_t begin, const at::Tensor& out) const {
  pieces_.read(name, begin, out);
  for (const auto& file : files_) file->release();
}

ParamSource HfWeights::source(const std::string& folder, const ModelConfig& config) {
  auto theirs = read_hf_config(folder, config), ours = config;
  theirs.init_std = ours.init_std;  // unused: no weights are drawn
  theirs.dense_width = theirs.dense_hidden(), ours.dense_width = ours.dense_hidden();
  if (const auto differences = differing_fields(theirs, ours); !differences.empty())
    throw ConfigError(fmt::format("{}/config.json describes another model than this config:\n  model.{}", folder,
                                  fmt::join(differences, "\n  model.")));
  auto weights = std::make_shared<HfWeights>(folder, config);
  return [weights](const std::string& name, int64_t begin, at::Tensor out) { weights->read(name, begin, out); };
}

}  // namespace olmoe
