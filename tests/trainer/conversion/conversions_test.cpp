// From folder to folder: Hugging Face folders, checkpoints of runs and of weights alone.
#include "trainer/conversion/conversions.h"

#include <cmath>

#include "core/files/files.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/conversion/comparison.h"
#include "trainer/conversion/model_report.h"
#include "trainer/conversion/new_folder.h"
#include "trainer/conversion/weights_checkpoint.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;

const std::string kGolden = OLMOE_SOURCE_DIR "/tests/golden/";
const std::string kShard = "/shard_00000.safetensors";

Comparison compared(const std::string& a, const std::string& b) {
  return compare_models(open_model(a), open_model(b), {});
}
bool same_weights(const std::string& a, const std::string& b) {
  const auto comparison = compared(a, b);
  return comparison.compared > 0 && comparison.equal();
}

/// The error of `work`, after its exit code; below `folder` must be what was there before.
std::string refusal(const std::string& folder, const std::function<void()>& work) {
  const auto before = test::snapshot(folder);
  std::string message = "accepted";
  try {
    work();
  } catch (const Error& error) {
    message = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  }
  CHECK(test::snapshot(folder) == before);
  return message;
}

Config saving_run(const std::string& folder) {
  auto config = test::tiny_run(folder);
  config.train.steps = 2;
  config.checkpoint.every_steps = 1;
  return config;
}

}  // namespace

TEST_CASE("a Hugging Face folder that is imported and exported again is the same, value by value") {
  const TempFolder folder;
  for (const char* golden : {"top2_of_8", "top3_of_6_gqa_clip", "dense_llama", "dense_one_expert", "flex_olmo",
                             "qwen3_moe_tied", "qwen3_moe_every_second", "qwen2_moe", "dots1"}) {
    INFO(golden);
    const auto step = folder / fmt::format("{}_step", golden), out = folder / fmt::format("{}_hf", golden);
    import_model(kGolden + golden, step, {});
    export_model(step, out, {}, {});
    CHECK(read_text(out + "/model.safetensors") == read_text(kGolden + golden + "/model.safetensors"));
    CHECK(open_model(step).config.data.sequence_length == 64);
  }
}

TEST_CASE("a bias of experts goes with the weights: into checkpoints, out of them, and into runs") {
  const TempFolder folder;
  import_model(kGolden + "dots1", folder / "step", {});
  auto config = saving_run(folder / "run");
  config.model = open_model(kGolden + "dots1").config.model;
  const std::string name = "blocks.1.moe.router.balancing_bias";
  const auto bias_of = [&](const std::string& source) {
    auto out = at::zeros({config.model.num_experts}, at::kDouble);
    open_model(source).values()(name, 0, out);
    return out;
  };
  const auto theirs = bias_of(kGolden + "dots1");
  REQUIRE(theirs.count_nonzero().item<int64_t>() > 0);
  CHECK(at::equal(bias_of(folder / "step"), theirs));
  const auto run_from = [&](const std::string& from, const std::string& run, double rate) {
    config.run.folder = run;
    config.train.init_from = from;
    config.model.balancing_bias_rate = rate;
    test::run_single(config);
    return bias_of(run);
  };
  CHECK(at::allclose(run_from(folder / "step", folder / "a", 1e-12), theirs, 0, 1e-10));
  CHECK(at::allclose(run_from(kGolden + "dots1", folder / "b", 1e-12), theirs, 0, 1e-10));

  const auto trained = run_from(folder / "step", folder / "c", 0.01);  // two steps
  CHECK((trained - theirs).abs().max().item<double>() > 0.009);
  export_model(folder / "c", folder / "trained", {}, {});
  CHECK(at::allclose(bias_of(folder / "trained"), trained, 1e-7, 0));
}

TEST_CASE("what only the losses of training read is left out of an export") {
  const TempFolder folder;
  auto config = saving_run(folder / "run");
  config.model.load_balancing_granularity = BalanceGranularity::previous_step;
  test::run_single(config);
  REQUIRE_FALSE(open_model(folder / "run").buffers().empty());
  export_model(folder / "run", folder / "hf", {}, {});
  CHECK(open_model(folder / "hf").buffers().empty());
}

TEST_CASE("the same in bfloat16 and in several files with an index") {
  const TempFolder folder;
  const ExportOptions bf16{.dtype = safetensors::Dtype::bf16, .max_shard_bytes = 4000};
  export_model(kGolden + "top8_of_64", folder / "a", bf16, {});
  import_model(folder / "a", folder / "step", {});
  export_model(folder / "step", folder / "b", bf16, {});
  REQUIRE(fs::exists(folder / "a/model.safetensors.index.json"));
  for (const auto& file : fs::directory_iterator(folder / "a"))
    CHECK(read_text(file.path()) == read_text(folder / ("b/" + file.path().filename().string())));
  CHECK_FALSE(same_weights(folder / "step", kGolden + "top8_of_64"));  // it was rounded
}

TEST_CASE("a checkpoint of a run is exported from the run's folder, from its checkpoints and by name") {
  const TempFolder folder;
  const auto run = test::run_single(saving_run(folder / "run"));
  const auto step = folder / "run/checkpoints/step_000000002";
  for (const auto& source : {folder / "run", folder / "run/checkpoints", step}) {
    CHECK(open_model(source).folder == step);
    const auto out = folder / "hf";
    export_model(source, out, {}, {});
    const auto exported = open_model(out);
    for (const auto& [name, values] : run.state.at("weight")) {
      auto read = at::empty({values.numel()}, at::kFloat);
      exported.weights()(name, 0, read);
      CHECK(at::equal(read, values.to(at::kFloat)));
    }
    fs::remove_all(out);
  }
  CHECK(open_model(folder / "run").master_dtype() == safetensors::Dtype::f64);
  CHECK_THAT(describe(open_model(folder / "run"), true), Catch::Contains("exp_avg_sq (F64)") &&
                                                             Catch::Contains("step 2, ") &&
                                                             Catch::Contains("weight head.weight"));
}

TEST_CASE("the report on a model names every variant by its key") {
  const TempFolder folder;
  auto config = saving_run(folder / "run");
  config.train.steps = 1;
  config.model.init_std = 0.02;
  config.model.loss_chunk = 1024;
  config.model.norm = NormKind::layer;
  config.model.attention_windows = {4, 0};
  config.model.num_shared_experts = 1;
  test::run_single(config);
  CHECK_THAT(describe(open_model(folder / "run"), false),
             Catch::Contains("top 2 of 5 experts of width 12 in 3 blocks\n") &&
                 Catch::Contains("  variants: num_shared_experts: 1, attention_windows: [4, 0], norm: layer\n"));
}

TEST_CASE("the mean of copies of a checkpoint is that checkpoint, bit for bit; of two, their mean") {
  const TempFolder folder;
  import_model(kGolden + "top2_of_8", folder / "a", {});
  average_models(folder / "same", {folder / "a", folder / "a", folder / "a"}, {});
  CHECK(read_text((folder / "same") + kShard) == read_text((folder / "a") + kShard));

  test::run_single(saving_run(folder / "run"));
  const auto checkpoints = folder / "run/checkpoints/";
  const std::vector<std::string> steps{checkpoints + "step_000000001", checkpoints + "step_000000002"};
  average_models(folder / "mean", steps, {});
  const auto name = "blocks.1.moe.experts.down.weight";
  auto one = at::empty({100}, at::kDouble), two = at::empty_like(one), mean = at::empty_like(one);
  open_model(steps[0]).weights()(name, 50, one);
  open_model(steps[1]).weights()(name, 50, two);
  open_model(folder / "mean").weights()(name, 50, mean);
  CHECK(at::equal(mean, (one + two) / 2));
  CHECK_FALSE(at::equal(one, two));

  CHECK_THAT(
      refusal(folder / ".",
              [&] {
                average_models(folder / "x", {folder / "a", folder / "run"}, {});
              }),
      Catch::StartsWith("2 ") && Catch::Contains("is another model than") && Catch::Contains("model.num_experts"));
}

TEST_CASE("a run starts from a checkpoint of weights alone, and refuses that of another model") {
  const TempFolder folder;
  auto config = test::tiny_run(folder / "run");
  config.model = open_model(kGolden + "top2_of_8").config.model;
  config.model.loss_chunk = 3;  // of no matter to weights
  const auto start = [&](const std::string& from) {
    config.train.init_from = from;
    const auto world = make_single_communicator();
    return test::whole_state(Trainer(resolve_run(config, 1), *world)).at("weight");
  };
  import_model(kGolden + "top2_of_8", folder / "step", {});
  const auto ours = start(folder / "step"), theirs = start(kGolden + "top2_of_8");
  REQUIRE(ours.size() == theirs.size());
  for (const auto& [name, values] : theirs) CHECK(at::equal(values, ours.at(name)));

  config.model.top_k = 3;
  config.train.init_from = folder / "step";
  CHECK_THAT(refusal(folder / ".", [&] { initial_weights(config, UnknownKeys::refused); }),
             Catch::StartsWith("2 train.init_from: ") && Catch::Contains("model.top_k: 2 -> 3"));
}

TEST_CASE("a target that exists is refused, and work that fails leaves nothing") {
  const TempFolder folder;
  folder.add("there/file", "");
  import_model(kGolden + "top2_of_8", folder / "step", {});
  CHECK_THAT(refusal(folder / ".", [&] { import_model(kGolden + "top2_of_8", folder / "there", {}); }),
             Catch::StartsWith("2 ") && Catch::Contains("there: exists already"));
  const Progress stop = [](int64_t, int64_t) { throw Error("stopped", ExitCode::preempted); };
  CHECK_THAT(refusal(folder / ".", [&] { export_model(folder / "step", folder / "out", {}, stop); }),
             Catch::StartsWith("75 ") && Catch::Contains("stopped"));
  CHECK_THAT(refusal(folder / ".", [&] { average_models(folder / "out/", {folder / "none"}, {}); }),
             Catch::StartsWith("4 ") && Catch::Contains("there is no folder"));
  CHECK_THAT(refusal(folder / ".", [&] { import_model(folder / "step", folder / "out", {}); }),
             Catch::StartsWith("4 ") && Catch::Contains("not a Hugging Face folder"));

  NewFolder late(folder / "late");
  folder.add("late/file", "");
  CHECK_THROWS_AS(late.commit(), ConfigError);
}

TEST_CASE("ids that the model does not have are refused") {
  const TempFolder folder;
  const auto tokenizer = folder.add("tokenizer.json", R"({"model": {"vocab": {"a": 64}}})");
  const auto said = [&](const ExportOptions& options) {
    return refusal(folder / ".", [&] { export_model(kGolden + "top2_of_8", folder / "out", options, {}); });
  };
  CHECK_THAT(said({.eos_id = 64}), Catch::StartsWith("2 --eos-id: 64 is not below model.vocab_size, 64"));
  CHECK_THAT(said({.tokenizer = tokenizer}), Catch::StartsWith("2 --tokenizer: ") && Catch::Contains("has 65 ids"));
}

TEST_CASE("a checkpoint of weights is divided into files and says what it was made of") {
  const TempFolder folder;
  fs::create_directories(folder / "step");
  const auto source = open_model(kGolden + "top2_of_8");
  write_weights_checkpoint(folder / "step", {source.config, source.weights(), safetensors::Dtype::f32, {{"a", "b"}}},
                           {}, 8000);
  const auto model = open_model(folder / "step");
  CHECK(model.manifest->files.size() > 2);
  CHECK(model.manifest->made_by.at("a") == "b");
  CHECK(model.manifest->made_by.contains("git_commit"));
  CHECK(same_weights(folder / "step", kGolden + "top2_of_8"));
  int64_t last = 0, all = 0;
  model.verify([&](int64_t done_bytes, int64_t all_bytes) { last = done_bytes, all = all_bytes; });
  CHECK((last == all && all > 0));
}

TEST_CASE("a comparison says what differs, the largest first") {
  const TempFolder folder;
  const auto a = open_model(kGolden + "top2_of_8");
  auto b = a;
  b.config.model.top_k = 3;
  b.read = [read = a.read](const auto& kind, const auto& name, int64_t begin, at::Tensor out) {
    read(kind, name, begin, out);
    if (name == "head.weight") out[5] += 0.5;
    if (name == "final_norm.weight") out[2] = std::nan("");
  };
  b.tensors.front().name = "renamed";
  const auto found = compare_models(a, b, {});
  CHECK(found.config == std::vector<std::string>{"model.top_k: 2 -> 3"});
  CHECK(found.only_a == std::vector<std::string>{"weight embedding.weight"});
  CHECK(found.only_b == std::vector<std::string>{"weight renamed"});
  REQUIRE(found.tensors.size() == 2);
  CHECK((found.tensors[0].tensor == "weight final_norm.weight" && found.tensors[0].at == 2));
  CHECK((found.tensors[1].tensor == "weight head.weight" && found.tensors[1].at == 5));
  CHECK((found.tensors[1].differing == 1 && found.tensors[1].largest == Approx(0.5)));
  CHECK_THAT(describe(found, 1), Catch::Contains("2 of 20 tensors differ") && Catch::Contains("and 1 more"));
}
