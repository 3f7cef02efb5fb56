// Attention variants and masks that other keys leave no kernel for, each refused by its key.
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/fixed_keys.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

using Change = std::function<void(Config&)>;

Config gpu_run(const std::string& folder) {
  auto config = tiny_run(folder);
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.model.d_model = config.model.expert_width = 64;
  config.model.num_heads = config.model.num_kv_heads = 4;
  return config;
}

void windows(Config& config) { config.model.attention_windows = {4, 0}; }
void long_window(Config& config) { config.model.attention_windows = {config.data.sequence_length}; }
void documents(Config& config) {
  config.data.document_mask = DocumentMask::eos;
  config.data.eos_id = 0;
}
void scaled(Config& config) {
  config.model.scalable_softmax = true;
  config.model.position_embeddings = {PositionEmbedding::none};
}
void all_of_it(Config& config) {
  windows(config);
  documents(config);
  scaled(config);
}

}  // namespace

TEST_CASE("attention variants are refused by key where no kernel has them, and only there") {
  const auto cudnn = [](Config& config) { config.train.attention_kernel = kernels::AttentionKernel::cudnn; };
  const auto fp32 = [](Config& config) { config.train.compute_dtype = ComputeDtype::float32; };
  const auto fp64 = [](Config& config) { config.train.compute_dtype = ComputeDtype::float64; };
  const auto graph = [](Config& config) { config.train.cuda_graph = true; };
  const auto unordered = [](Config& config) { config.train.deterministic_attention = false; };
  const auto cpu_fp32 = [](Config& config) {
    config.train.device = DeviceKind::cpu;
    config.train.compute_dtype = ComputeDtype::float32;
  };
  struct Case {
    Change variant, setting;
    std::string problem;  ///< empty: accepted
  };
  const std::vector<Case> table{
      {windows, cudnn, "train.attention_kernel: cudnn has no windows here (model.attention_windows); use flash"},
      {documents, cudnn, "train.attention_kernel: cudnn has no documents here (data.document_mask); use flash"},
      {scaled, cudnn, ""},
      {long_window, cudnn, ""},  // hides no key
      {long_window, fp32, ""},
      {windows, fp32, "model.attention_windows: a window needs train.compute_dtype=bfloat16 on a GPU"},
      {documents, fp32, "data.document_mask: eos needs train.compute_dtype=bfloat16 on a GPU"},
      {scaled, fp32, ""},
      {all_of_it, fp64, ""},
      {documents, graph, "train.cuda_graph: not with data.document_mask"},
      {windows, graph, ""},
      {scaled, graph, ""},
      {all_of_it, unordered, ""},
      {all_of_it, cpu_fp32, ""},
  };
  TempFolder folder;
  for (size_t i = 0; i < table.size(); ++i) {
    INFO("case " << i);
    auto config = gpu_run(folder / "run");
    table[i].setting(config);
    CHECK(validate(config).empty());
    table[i].variant(config);
    const auto problems = validate(config);
    REQUIRE(problems.size() == (table[i].problem.empty() ? 0 : 1));
    if (!problems.empty()) CHECK_THAT(problems.front(), Catch::StartsWith(table[i].problem));
  }
}

TEST_CASE("a run that resumes keeps its attention and its documents") {
  for (const auto* key : {"model.attention_windows", "model.position_embeddings", "model.scalable_softmax",
                          "data.document_mask", "data.eos_id"})
    CHECK(is_fixed_key(key));
}

TEST_CASE("attention variants are read from a config and written back") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  all_of_it(config);
  config.model.position_embeddings = {PositionEmbedding::rotary, PositionEmbedding::none};
  const auto text = write_config(config);
  CHECK(differing_fields(config, read_config_text<Config>(text, "written")).empty());
  const auto given = read_config_text<Config>(text, "written",
                                              {"model.attention_windows=[8, 8, 0]", "model.position_embeddings=[none]",
                                               "data.document_mask=table", "data.eos_id=null"});
  CHECK(given.model.attention_windows == std::vector<int64_t>{8, 8, 0});
  REQUIRE(given.model.position_embeddings.size() == 1);
  CHECK_FALSE(given.model.is_rotary(0));
  CHECK(given.data.document_mask == DocumentMask::table);
  CHECK_FALSE(given.data.eos_id);
}
