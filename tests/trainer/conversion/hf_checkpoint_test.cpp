// Hugging Face folders: the map of names, and what is refused. That values agree is tests/golden's
// matter.
#include "trainer/conversion/hf_checkpoint.h"

#include <nlohmann/json.hpp>
#include <set>

#include "support/catch.h"
#include "support/hf_configs.h"
#include "support/model_fixtures.h"
#include "support/temp_folder.h"

namespace {

using namespace olmoe;
using nlohmann::json;
using test::olmoe_json;

const std::vector<ModelConfig>& shapes_of_models() {
  static const auto models = [] {
    auto moe = test::tiny_model(), no_norm = test::tiny_model(), dense = test::tiny_model();
    no_norm.qk_norm = QkNorm::none;
    dense.ffn = Ffn::dense;
    auto post = moe, shared = no_norm, biased = moe;
    post.norm_position = NormPosition::post, post.tie_embeddings = true;
    shared.num_shared_experts = 2, shared.shared_expert_gate = true, shared.moe_every = 2;
    biased.qk_norm = QkNorm::per_head_shared, biased.num_shared_experts = 1, biased.dense_layers = 1;
    biased.balancing_bias = ExpertBias::loss_free;
    return std::vector{moe, no_norm, dense, ModelConfig{}, post, shared, biased};
  }();
  return models;
}

int64_t numel_of(const std::vector<int64_t>& shape) {
  int64_t numel = 1;
  for (auto extent : shape) numel *= extent;
  return numel;
}

/// Tensors of a model with numbered elements, as files of a Hugging Face folder.
class HfFolder {
 public:
  explicit HfFolder(const ModelConfig& model) {
    float next = 0;
    for (const auto& tensor : hf_tensors(model)) {
      auto& values = values_[tensor.hf_name];
      values.resize(static_cast<size_t>(numel_of(tensor.shape)));
      for (auto& value : values) value = next++;
      items_[tensor.hf_name] = {tensor.hf_name, safetensors::Dtype::f32, tensor.shape, {}};
    }
  }
  std::map<std::string, std::vector<float>>& values() { return values_; }
  std::map<std::string, safetensors::Item>& items() { return items_; }
  std::string path() const { return folder_ / "."; }
  const TempFolder& folder() const { return folder_; }

  void write(const std::string& file, const std::function<bool(const std::string&)>& takes) {
    std::vector<safetensors::Item> items;
    for (auto& [name, item] : items_) {
      item.bytes = std::as_bytes(std::span(values_.at(name)));
      if (takes(name)) items.push_back(item);
    }
    safetensors::write(folder_ / file, items, {});
  }
  void write() {
    write("model.safetensors", [](const std::string&) { return true; });
  }

 private:
  TempFolder folder_;
  std::map<std::string, std::vector<float>> values_;
  std::map<std::string, safetensors::Item> items_;
};

void check_reads_back(HfFolder& files, const ModelConfig& model) {
  const HfWeights weights(files.path(), model);
  for (const auto& tensor : hf_tensors(model)) {
    INFO(tensor.hf_name);
    auto out = at::zeros({numel_of(tensor.shape)}, at::kDouble);
    weights.read(tensor.name, tensor.first, out);
    const auto& expected = files.values().at(tensor.hf_name);
    CHECK(std::equal(expected.begin(), expected.end(), out.data_ptr<double>()));
  }
}

std::string refusal(HfFolder& files, const ModelConfig& model) {
  files.write();
  try {
    HfWeights(files.path(), model);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "accepted";
}

ModelConfig read(const json& config, const ModelConfig& defaults = {}) {
  TempFolder folder;
  folder.add("config.json", config.dump());
  return read_hf_config(folder / ".", defaults);
}

}  // namespace

TEST_CASE("each element of each parameter is in exactly one Hugging Face tensor") {
  for (const auto& model : shapes_of_models()) {
    std::map<std::string, std::map<int64_t, int64_t>> ranges;  // parameter -> first -> numel
    std::set<std::string> names;
    for (const auto& tensor : hf_tensors(model)) {
      CHECK(names.insert(tensor.hf_name).second);
      CHECK(tensor.buffer == tensor.name.ends_with(kBalancingBias));
      if (!tensor.buffer) CHECK(ranges[tensor.name].emplace(tensor.first, numel_of(tensor.shape)).second);
    }
    for (const auto& params : list_params(model))
      for (const auto& param : params) {
        int64_t end = 0;
        for (const auto& [first, numel] : ranges[param.name]) end = first == end ? end + numel : -1;
        INFO(param.name);
        CHECK(end == numel_of(param.global_shape));
        ranges.erase(param.name);
      }
    CHECK(ranges.empty());
  }
}

TEST_CASE("OLMoE-1B-7B is 3219 tensors") {
  CHECK(hf_tensors(ModelConfig{}).size() == 3219);  // 3 + 16 * (2 + 4 + 2 + 1 + 64 * 3)
}

TEST_CASE("a folder of one file, and one of shards with an index, read back") {
  const auto model = test::tiny_model();
  HfFolder files(model);
  files.write();
  check_reads_back(files, model);

  std::filesystem::remove(files.folder() / "model.safetensors");
  auto is_first = [](const std::string& name) { return name.find("layers.1.") == std::string::npos; };
  files.write("model-00001-of-00002.safetensors", is_first);
  files.write("model-00002-of-00002.safetensors", std::not_fn(is_first));
  json index;
  for (const auto& [name, values] : files.values())
    index["weight_map"][name] = fmt::format("model-0000{}-of-00002.safetensors", is_first(name) ? 1 : 2);
  files.folder().add("model.safetensors.index.json", index.dump());
  check_reads_back(files, model);
}

TEST_CASE("missing, unexpected and misshapen tensors are refused by name, all at once") {
  const auto model = test::tiny_model();
  HfFolder files(model);
  const std::string gone = "model.layers.1.mlp.experts.3.up_proj.weight", bent = "model.layers.0.mlp.gate.weight",
                    extra = "model.layers.0.self_attn.q_proj.bias";
  files.items().erase(gone);
  files.items().at(bent).shape = {model.d_model, model.num_experts};
  files.values()[extra] = {1.0F};
  files.items()[extra] = {extra, safetensors::Dtype::f32, {1}, {}};
  const auto message = refusal(files, model);
  CHECK_THAT(message, Catch::Contains(gone + " is missing"));
  CHECK_THAT(message, Catch::Contains(bent + " is [24, 5], expected [5, 24]"));
  CHECK_THAT(message, Catch::Contains(extra + " is not part of this model"));
  CHECK_THAT(message, Catch::Contains("3 tensors"));
}

TEST_CASE("weights whose config.json computes something else are refused, although they fit") {
  const auto model = read(olmoe_json());
  HfFolder files(model);
  files.write();
  const auto start_from = [&](const json& change) -> std::string {
    auto config = olmoe_json();
    config.merge_patch(change);
    files.folder().add("config.json", config.dump());
    try {
      auto out = at::zeros({2});
      HfWeights::source(files.path(), model)("embedding.weight", 0, out);
      return out.equal(at::arange(2)) ? "read" : "other values";
    } catch (const ConfigError& error) {
      return error.what();
    }
  };
  CHECK(start_from(json::object()) == "read");
  CHECK(start_from({{"initializer_range", 0.5}}) == "read");
  CHECK_THAT(start_from({{"num_experts_per_tok", 2}}), Catch::Contains("model.top_k: 2 -> 3"));
  CHECK_THAT(start_from({{"norm_topk_prob", false}, {"rope_theta", 1.0}}),
             Catch::Contains("model.renormalize_scores") && Catch::Contains("model.rope_theta"));
}

TEST_CASE("a tensor in two files is refused") {
  const auto model = test::tiny_model();
  HfFolder files(model);
  const auto all = [](const std::string&) { return true; };
  files.write("a.safetensors", all);
  files.write("b.safetensors", [](const std::string& name) { return name == "lm_head.weight"; });
  files.folder().add("model.safetensors.index.json",
                     R"({"weight_map": {"x": "a.safetensors", "lm_head.weight": "b.safetensors"}})");
  CHECK_THROWS_WITH(HfWeights(files.path(), model), Catch::Contains("lm_head.weight is in two files"));
}

TEST_CASE("weights that are no floating-point numbers, and broken indexes, are refused") {
  const auto model = test::tiny_model();
  HfFolder files(model);
  files.items().at("lm_head.weight").dtype = safetensors::Dtype::i32;
  CHECK_THAT(refusal(files, model), Catch::Contains("head.weight"));
  for (const char* text : {"{}", "[1]", "{\"weight_map\": {\"lm_head.weight\": 3}}", "{\"weight_map"}) {
    files.folder().add("model.safetensors.index.json", text);
    CHECK_THAT(refusal(files, model), Catch::Contains("model.safetensors.index.json"));
  }
}

TEST_CASE("a model with a variant does not start from a folder without it") {
  const auto plain = read(olmoe_json());
  HfFolder files(plain);
  files.write();
  files.folder().add("config.json", olmoe_json().dump());
  auto model = plain;
  model.score_scale = 2, model.attention_windows = {4}, model.embedding_scale = 3;
  CHECK_THROWS_WITH(HfWeights::source(files.path(), model), Catch::Contains("model.score_scale") &&
                                                                Catch::Contains("model.attention_windows") &&
                                                                Catch::Contains("model.embedding_scale"));
  model = plain;
  model.attention_windows = {0}, model.dense_width = 99, model.load_balancing_weight = 3;  // the same function
  HfWeights::source(files.path(), model);
}
