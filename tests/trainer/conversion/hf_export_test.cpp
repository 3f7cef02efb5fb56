// Hugging Face folders that are written: what tests/golden holds comes back as it is, in any dtype and division.
#include "trainer/conversion/hf_export.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/files/files.h"
#include "support/catch.h"
#include "support/hf_models.h"
#include "support/model_fixtures.h"
#include "support/temp_folder.h"
#include "trainer/conversion/hf_checkpoint.h"
#include "trainer/conversion/param_stream.h"

namespace {

using namespace olmoe;
using nlohmann::json;
namespace fs = std::filesystem;

const std::string kGolden = OLMOE_SOURCE_DIR "/tests/golden/";

std::vector<std::string> golden_folders() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(kGolden))
    if (entry.is_directory()) out.push_back(entry.path());
  REQUIRE(out.size() >= 12);
  return out;
}

json read_json(const std::string& path) { return json::parse(read_text(path)); }

/// A folder's tensors by name, each as dtype, shape and bytes.
using Tensor = std::tuple<safetensors::Dtype, std::vector<int64_t>, std::string>;
std::map<std::string, Tensor> tensors_of(const std::string& folder) {
  std::map<std::string, Tensor> out;
  for (const auto& file : fs::directory_iterator(folder)) {
    const auto name = file.path().filename().string();
    if (!name.starts_with("model") || !name.ends_with(".safetensors")) continue;
    const safetensors::File opened(file.path());
    CHECK(opened.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
    for (const auto& [tensor, entry] : opened.entries()) {
      const auto bytes = opened.bytes(tensor);
      CHECK(out.emplace(tensor,
                        Tensor{entry.dtype, entry.shape, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}})
                .second);
    }
  }
  return out;
}

/// Reads a Hugging Face folder and writes it again.
void write_again(const std::string& from, const std::string& to, const HfExport& options) {
  fs::create_directories(to);
  const auto config = read_hf_config(from);
  write_hf_model(to, hf_form(config, HfWeights::source(from, config)), options, {});
}

}  // namespace

TEST_CASE("a golden folder that is read and written again is the same, tensor by tensor and in its config") {
  const TempFolder folder;
  for (const auto& golden : golden_folders()) {
    INFO(golden);
    const auto again = folder / fs::path(golden).filename();
    write_again(golden, again, {.max_positions = 64});
    CHECK((tensors_of(again) == tensors_of(golden)));
    const auto theirs = read_json(golden + "/config.json"), ours = read_json(again + "/config.json");
    for (const auto& [key, value] : theirs.items()) {
      INFO(key);
      if (key != "use_cache") CHECK(ours.value(key, json("missing")) == value);
    }
    CHECK(differing_fields(read_hf_config(golden), read_hf_config(again)).empty());
  }
}

TEST_CASE("a folder of several files has an index, and every dtype reads back as it was rounded") {
  const TempFolder folder;
  const auto golden = kGolden + "top2_of_8";
  for (const auto dtype : {safetensors::Dtype::f32, safetensors::Dtype::bf16, safetensors::Dtype::f16}) {
    INFO(safetensors::name(dtype));
    const auto once = folder / fmt::format("once_{}", safetensors::name(dtype)), twice = once + "_twice";
    write_again(golden, once, {.dtype = dtype, .max_shard_bytes = 5000});
    write_again(once, twice, {.dtype = dtype});
    CHECK((tensors_of(once) == tensors_of(twice)));
    CHECK(fs::exists(twice + "/model.safetensors"));

    const auto index = read_json(once + "/model.safetensors.index.json");
    std::set<std::string> files;
    int64_t bytes = 0;
    for (const auto& [name, tensor] : tensors_of(once)) {
      files.insert(index.at("weight_map").at(name).get<std::string>());
      CHECK(std::get<0>(tensor) == dtype);
      bytes += static_cast<int64_t>(std::get<2>(tensor).size());
    }
    CHECK(files.size() > 3);
    CHECK(files.count(fmt::format("model-00001-of-{:05}.safetensors", files.size())) == 1);
    CHECK(index.at("weight_map").size() == tensors_of(golden).size());
    CHECK(index.at("metadata").at("total_size") == bytes);
    for (const auto& file : files) CHECK(fs::file_size(once + "/" + file) < 5000 + 4000);  // with its header
  }
}

TEST_CASE("OLMoE-1B-7B is 3,219 tensors of 6,919,161,856 elements, in three files as bfloat16") {
  const ModelConfig config;
  const auto form = hf_form(config, random_init(config, 1));
  CHECK(hf_tensors(form.config).size() == 3219);
  CHECK(hf_weight_bytes(form, safetensors::Dtype::bf16) == 2 * 6'919'161'856);
}

TEST_CASE("a bias of experts is float32 in files of every dtype; experts without one get zeros") {
  const TempFolder folder;
  auto model = test::tiny_model();
  test::hf_models().at("Dots1ForCausalLM")(model);
  const auto bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  const auto write = [&](const std::string& name, const ModelConfig& config) {
    const auto source = [random = random_init(model, 1)](const std::string& ours, int64_t begin, at::Tensor to) {
      ours.ends_with(kBalancingBias) ? (to.fill_(0.1), void()) : random(ours, begin, to);
    };
    fs::create_directories(folder / name);
    write_hf_model(folder / name, hf_form(config, source), {.dtype = safetensors::Dtype::bf16}, {});
    CHECK(std::get<0>(tensors_of(folder / name).at("lm_head.weight")) == safetensors::Dtype::bf16);
    CHECK(std::get<0>(tensors_of(folder / name).at(bias)) == safetensors::Dtype::f32);
    auto out = at::ones({model.num_experts});
    const auto back = read_hf_config(folder / name);
    HfWeights::source(folder / name, back)("blocks.1.moe.router.balancing_bias", 0, out);
    return out;
  };
  CHECK(at::equal(write("biased", model), at::full({model.num_experts}, 0.1)));
  auto plain = model;
  plain.balancing_bias = ExpertBias::none;
  CHECK(at::equal(write("plain", plain), at::zeros({model.num_experts})));
}

TEST_CASE("experts that blocks share are written for each block, and come back as experts of each") {
  const TempFolder folder;
  auto model = test::tiny_model();
  model.qk_norm = QkNorm::per_head_shared;
  model.num_layers = 4;
  model.dense_layers = model.moe_every = 1;
  model.share_experts = true;
  REQUIRE(validate(model, "model").empty());
  const auto weights = random_init(model, 3);
  fs::create_directories(folder / "hf");
  const HfExport options{.dtype = safetensors::Dtype::f32, .max_positions = 64, .ids = {}};
  write_hf_model(folder / "hf", hf_form(model, weights), options, {});
  const auto tensors = tensors_of(folder / "hf");
  for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
    const auto of_block = [&](int block) {
      return tensors.at(fmt::format("model.layers.{}.mlp.experts.2.{}.weight", block, part));
    };
    CHECK((of_block(2) == of_block(1) && of_block(3) == of_block(1)));
  }
  CHECK(tensors.at("model.layers.2.mlp.gate.weight") != tensors.at("model.layers.1.mlp.gate.weight"));
  const auto back = read_hf_config(folder / "hf");
  CHECK_FALSE(back.share_experts);
  const auto source = HfWeights::source(folder / "hf", back);
  const int64_t numel = model.num_experts * model.d_model * model.expert_width;
  auto ours = at::empty({numel}), theirs = at::empty({numel});
  weights("blocks.1.moe.experts.down.weight", 0, ours);
  for (const char* block : {"blocks.1", "blocks.3"}) {
    source(fmt::format("{}.moe.experts.down.weight", block), 0, theirs);
    CHECK(at::equal(theirs, ours));
  }
}

TEST_CASE("a tied head is not written, and comes back tied") {
  const TempFolder folder;
  auto model = test::tiny_model();
  model.ffn = GENERATE(Ffn::moe, Ffn::dense);
  if (model.ffn == Ffn::dense) model.qk_norm = QkNorm::none;
  model.tie_embeddings = true;
  fs::create_directories(folder / "hf");
  const HfExport options{.dtype = safetensors::Dtype::f32, .max_positions = 64, .ids = {}};
  write_hf_model(folder / "hf", hf_form(model, random_init(model, 3)), options, {});
  CHECK(read_json(folder / "hf/config.json").at("tie_word_embeddings") == true);
  const auto tensors = tensors_of(folder / "hf");
  CHECK(tensors.contains("model.embed_tokens.weight"));
  CHECK_FALSE(tensors.contains("lm_head.weight"));
  const auto back = read_hf_config(folder / "hf");
  CHECK(back.tie_embeddings);
  auto ours = at::empty({50 * 24}), theirs = at::empty({50 * 24});
  random_init(model, 3)("embedding.weight", 0, ours);
  HfWeights::source(folder / "hf", back)("embedding.weight", 0, theirs);
  CHECK(at::equal(ours, theirs));
}

TEST_CASE("weights that the file's dtype cannot hold, or that are not finite, are refused by name") {
  const auto said = [](double value) {
    const TempFolder folder;
    const auto model = test::tiny_model();
    const auto source = [value](const std::string& name, int64_t begin, at::Tensor out) {
      out.zero_();
      if (name == "head.weight" && begin == 0) out[7] = value;
    };
    try {
      write_hf_model(folder / ".", hf_form(model, source), {.dtype = safetensors::Dtype::f16}, {});
    } catch (const Error& error) {
      return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
    return std::string("accepted");
  };
  CHECK(said(65504.0) == "accepted");
  CHECK_THAT(said(70000.0), Catch::StartsWith("2 ") && Catch::Contains("head.weight: element 7 is 70000"));
  CHECK_THAT(said(NAN), Catch::StartsWith("72 ") && Catch::Contains("head.weight: element 7 is nan"));
}

TEST_CASE("a tensor is converted piece by piece, and progress is told in bytes") {
  ModelConfig model = test::tiny_model();
  model.vocab_size = 100'000;
  model.d_model = 64;  // the embedding is more than a piece
  const TempFolder folder;
  int64_t largest = 0, last = 0, all = 0;
  const auto source = [&](const std::string& name, int64_t begin, at::Tensor out) {
    largest = std::max(largest, out.numel());
    out.fill_(name == "embedding.weight" && begin > 0 ? 2.0 : 1.0);
  };
  write_hf_model(folder / ".", hf_form(model, source), {}, [&](int64_t done_bytes, int64_t all_bytes) {
    CHECK(done_bytes > last);
    last = done_bytes, all = all_bytes;
  });
  CHECK(largest == kPieceElements);
  CHECK(last == all);
  const safetensors::File file(folder / "model.safetensors");
  const auto bytes = file.bytes("model.embed_tokens.weight");
  const auto* values = reinterpret_cast<const float*>(bytes.data());
  CHECK((values[kPieceElements - 1] == 1.0F && values[kPieceElements] == 2.0F));
}
