#include "trainer/config/config.h"

#include <cstdlib>
#include <filesystem>
#include <limits>

#include "core/files/files.h"
#include "model/flops.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/mesh_shape.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

const std::string kConfigs = OLMOE_SOURCE_DIR "/configs";
const std::string kDocument = OLMOE_SOURCE_DIR "/docs/config.md";

/// Of runs; configs/studies/ has studies, which test_study_program.py resolves.
std::vector<std::string> config_files() {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(kConfigs))
    if (entry.path().extension() == ".yaml" && entry.path().parent_path().filename() != "studies")
      files.push_back(entry.path());
  return files;
}

struct BadConfig {
  std::string key;
  std::function<void(Config&)> spoil;
};

const std::vector<BadConfig>& bad_configs() {
  static const std::vector<BadConfig> table{
      {"run.folder", [](auto& c) { c.run.folder = ""; }},
      {"run.seed", [](auto& c) { c.run.seed = -1; }},
      {"run.threads", [](auto& c) { c.run.threads = -1; }},
      {"model.top_k", [](auto& c) { c.model.top_k = 6; }},
      {"train.steps", [](auto& c) { c.train.steps = 0; }},
      {"train.micro_batch_size", [](auto& c) { c.train.micro_batch_size = 0; }},
      {"train.global_batch_size", [](auto& c) { c.train.global_batch_size = 0; }},
      {"optimizer.lr", [](auto& c) { c.optimizer.lr = 0; }},
      {"optimizer.beta1", [](auto& c) { c.optimizer.beta1 = 1; }},
      {"optimizer.beta2", [](auto& c) { c.optimizer.beta2 = -0.1; }},
      {"optimizer.eps", [](auto& c) { c.optimizer.eps = 0; }},
      {"optimizer.weight_decay", [](auto& c) { c.optimizer.weight_decay = -0.1; }},
      {"optimizer.clip_norm", [](auto& c) { c.optimizer.clip_norm = -1; }},
      {"schedule.warmup_steps", [](auto& c) { c.schedule.warmup_steps = -1; }},
      {"schedule.decay_steps", [](auto& c) { c.schedule.decay_steps = -1; }},
      {"schedule.warmup_start", [](auto& c) { c.schedule.warmup_start = 1.1; }},
      {"schedule.final_fraction", [](auto& c) { c.schedule.final_fraction = -0.1; }},
      {"checkpoint.keep_every_steps", [](auto& c) { c.checkpoint.keep_every_steps = -1; }},
      {"checkpoint.keep_best_metric",
       [](auto& c) {
         c.evaluation.paths = {"a.npy"};
         c.checkpoint.keep_best = 1;
         c.checkpoint.keep_best_metric = "eval/b/loss";
       }},
      {"checkpoint.cadence[0].until_step",
       [](auto& c) {
         c.checkpoint.cadence = {{0, 1}};
       }},
      {"checkpoint.cadence[1].until_step",
       [](auto& c) {
         c.checkpoint.cadence = {{5, 1}, {5, 2}};
       }},
      {"checkpoint.cadence[0].every_steps",
       [](auto& c) {
         c.checkpoint.cadence = {{5, -1}};
       }},
      {"parallel.replicate", [](auto& c) { c.parallel.replicate = 0; }},
      {"parallel.shard", [](auto& c) { c.parallel.shard = -1; }},
      {"parallel.expert", [](auto& c) { c.parallel.expert = 0; }},
      {"parallel.expert_chunks", [](auto& c) { c.parallel.expert_chunks = 0; }},
      {"parallel.zero_stage", [](auto& c) { c.parallel.zero_stage = 0; }},
      {"data.paths", [](auto& c) { c.data.synthetic = false; }},
      {"data.paths", [](auto& c) { c.data.paths = {"tokens.npy"}; }},
      {"data.sequence_length", [](auto& c) { c.data.sequence_length = 1; }},
      {"data.prefetch", [](auto& c) { c.data.prefetch = 0; }},
      {"evaluation.every_steps", [](auto& c) { c.evaluation.every_steps = -1; }},
      {"evaluation.max_sequences", [](auto& c) { c.evaluation.max_sequences = -1; }},
      {"checkpoint.every_steps", [](auto& c) { c.checkpoint.every_steps = -1; }},
      {"checkpoint.keep", [](auto& c) { c.checkpoint.keep = -1; }},
      {"log.every_steps", [](auto& c) { c.log.every_steps = 0; }},
      {"log.host_syncs", [](auto& c) { c.log.host_syncs = true; }},
      {"train.cuda_graph", [](auto& c) { c.train.cuda_graph = true; }},
      {"train.cuda_graph",
       [](auto& c) {
         c.train.cuda_graph = true;
         c.train.device = DeviceKind::cuda;
         c.parallel.transport = Transport::host;
       }},
      {"train.cuda_graph",
       [](auto& c) {
         c.train.cuda_graph = true;
         c.train.device = DeviceKind::cuda;
         c.model.capacity_factor = 1.5;
       }},
      {"parallel.registered_memory", [](auto& c) { c.parallel.registered_memory = true; }},
  };
  return table;
}

/// Schedules, batches of the first steps and groups of parameters.
const std::vector<BadConfig>& bad_schedules_and_groups() {
  static const std::vector<BadConfig> table{
      {"schedule.cooldown_steps", [](auto& c) { c.schedule.kind = ScheduleKind::wsd; }},
      {"schedule.cooldown_steps", [](auto& c) { c.schedule.cooldown_steps = -1; }},
      {"optimizer.groups[0].match", [](auto& c) { c.optimizer.groups = {{.match = "*.gate.weight", .lr_scale = 2}}; }},
      {"optimizer.groups[1].match",
       [](auto& c) {
         c.optimizer.groups = {{.match = "head.weight"}, {.match = "head.*", .frozen = true}};
       }},
      {"optimizer.groups[0].lr_scale", [](auto& c) { c.optimizer.groups = {{.match = "head.weight", .lr_scale = 0}}; }},
      {"optimizer.clip_warmup_factor", [](auto& c) { c.optimizer.clip_warmup_factor = 0; }},
      {"optimizer.clip_warmup_steps", [](auto& c) { c.optimizer.clip_warmup_steps = -1; }},
      {"optimizer.clip_warmup_steps",
       [](auto& c) {
         c.optimizer.clip_norm = 0;
         c.optimizer.clip_warmup_factor = 5, c.optimizer.clip_warmup_steps = 2;
       }},
      {"optimizer.clip_warmup_factor",
       [](auto& c) {
         c.optimizer.clip_warmup_factor = 1e-300, c.optimizer.clip_warmup_steps = 2;
         c.optimizer.clip_norm = 1e-10;
       }},
      {"schedule.batch_lr_power", [](auto& c) { c.schedule.batch_lr_power = 1.5; }},
      {"train.batch_size_warmup[1].until_step",
       [](auto& c) {
         c.train.batch_size_warmup = {{2, 1}, {2, 3}};
       }},
      {"train.batch_size_warmup[0].until_step",
       [](auto& c) {
         c.train.batch_size_warmup = {{0, 1}};
       }},
      {"train.batch_size_warmup[0].global_batch_size",
       [](auto& c) {
         c.train.batch_size_warmup = {{2, 4}, {3, 3}};
       }},
      {"train.batch_size_warmup[0].global_batch_size",
       [](auto& c) {
         c.train.batch_size_warmup = {{2, 6}};  // of 5 after it
       }},
      {"train.cuda_graph",
       [](auto& c) {
         c.train.batch_size_warmup = {{2, 1}};
         c.train.cuda_graph = true;
         c.train.device = DeviceKind::cuda;
       }},
  };
  return table;
}

/// Commands that send checkpoints, without what they need.
const std::vector<BadConfig>& bad_commands() {
  static const std::vector<BadConfig> table{
      {"checkpoint.after_save_tries", [](auto& c) { c.checkpoint.after_save_tries = 0; }},
      {"checkpoint.verify_copy", [](auto& c) { c.checkpoint.verify_copy = "true"; }},
      {"checkpoint.delete_local", [](auto& c) { c.checkpoint.delete_local = DeleteLocal::after_verified; }},
      {"checkpoint.delete_local",
       [](auto& c) {
         c.checkpoint.delete_local = DeleteLocal::after_verified;
         c.checkpoint.after_save = "true";
       }},
  };
  return table;
}

/// Numbers that are valid and absurd, and sets without a good name.
const std::vector<BadConfig>& bad_sizes_and_names() {
  static const std::vector<BadConfig> table{
      {"data.prefetch", [](auto& c) { c.data.prefetch = int64_t{1} << 40; }},
      {"data.instance_filter.repetition_max_period",
       [](auto& c) {
         c.data.instance_filter = {3, 1, 1 << 20};
       }},
      {"data.instance_filter.repetition_max_count",
       [](auto& c) {
         c.data.instance_filter = {2, 1, 4};
       }},
      {"run.threads", [](auto& c) { c.run.threads = 1'000'000'000; }},
      {"train.steps", [](auto& c) { c.train.steps = 1'000'000'000; }},  // ten digits
      {"data.sequence_length", [](auto& c) { c.data.sequence_length = 1 << 30; }},
      {"parallel.expert_chunks", [](auto& c) { c.parallel.expert_chunks = 1 << 20; }},
      {"checkpoint.keep", [](auto& c) { c.checkpoint.keep = int64_t{1} << 40; }},
      {"model",
       [](auto& c) {
         c.model.num_layers = 1 << 10;
         c.model.num_experts = 1 << 14;
         c.model.d_model = c.model.expert_width = 1 << 17;
       }},
      {"train.global_batch_size",
       [](auto& c) {
         c.train.global_batch_size = c.train.micro_batch_size = std::numeric_limits<int32_t>::max();
         c.data.sequence_length = 1 << 24;
       }},
      {"train.steps",
       [](auto& c) {
         c.train.steps = 999'999'999;
         c.train.global_batch_size = 1 << 17;
         c.data.sequence_length = 1 << 20;
       }},
      {"evaluation.paths[1]",
       [](auto& c) {
         c.evaluation.paths = {"a/x.npy", "b/x.npy"};
       }},
      {"evaluation.sets[0]",
       [](auto& c) {
         c.evaluation.paths = {"a/x.npy"};
         c.evaluation.sets = {{"x", {"b/x.npy"}}};
       }},
      {"evaluation.sets[0]",
       [](auto& c) {
         c.evaluation.sets = {{"", {"x.npy"}}};
       }},
      {"evaluation.sets[0]",
       [](auto& c) {
         c.evaluation.sets = {{"a/b", {"x.npy"}}};
       }},
      {"evaluation.sets[0]",
       [](auto& c) {
         c.evaluation.sets = {{"a\nb", {"x.npy"}}};
       }},
      {"evaluation.sets[0]",
       [](auto& c) {
         c.evaluation.sets = {{std::string(256, 'n'), {"x.npy"}}};
       }},
      {"evaluation.sets[0].paths",
       [](auto& c) {
         c.evaluation.sets = {{"x", {}}};
       }},
  };
  return table;
}

}  // namespace

TEST_CASE("every config of the repository loads, has a mesh, and reads back from what it resolves to") {
  const auto files = config_files();
  REQUIRE(files.size() >= 5);
  for (const auto& file : files) {
    INFO(file);
    const auto config = load_config(file, {});
    const auto ranks = config.parallel.replicate * std::max<int64_t>(1, config.parallel.shard);
    CHECK_NOTHROW(mesh_shape(config, static_cast<int>(ranks)));
    const auto again = read_config_text<Config>(write_config(config), "resolved");
    CHECK(differing_fields(config, again).empty());
  }
}

TEST_CASE("the configs of the published models have their parameters") {
  const auto moe = count_parameters(load_config(kConfigs + "/olmoe-1b-7b.yaml", {}).model);
  CHECK(moe.total == 6'919'161'856);
  CHECK(moe.active == 1'282'017'280);
  const auto dense = count_parameters(load_config(kConfigs + "/olmo-1b-dense.yaml", {}).model);
  CHECK(dense.total == 1'279'920'128);
}

TEST_CASE("each bad value is one problem that starts with its key") {
  TempFolder folder;
  REQUIRE(validate(tiny_run(folder / "run")).empty());
  auto table = bad_configs();
  table.insert(table.end(), bad_commands().begin(), bad_commands().end());
  table.insert(table.end(), bad_schedules_and_groups().begin(), bad_schedules_and_groups().end());
  table.insert(table.end(), bad_sizes_and_names().begin(), bad_sizes_and_names().end());
  for (const auto& [key, spoil] : table) {
    auto config = tiny_run(folder / "run");
    spoil(config);
    const auto problems = validate(config);
    INFO(key);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith(key + ":"));
  }
}

TEST_CASE("fused experts are refused where they cannot compute a run") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.train.expert_kernels = kernels::ExpertKernels::fused;
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.model.d_model = 2048;
  config.model.num_heads = config.model.num_kv_heads = 16;
  config.model.expert_width = 1024;
  REQUIRE(validate(config).empty());
  const auto refused = [config](const std::function<void(Config&)>& spoil) {
    auto spoilt = config;
    spoil(spoilt);
    const auto problems = validate(spoilt);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith("train.expert_kernels: fused needs ") && Catch::EndsWith("use unfused"));
    return problems[0];
  };
  CHECK_THAT(refused([](auto& c) { c.train.device = DeviceKind::cpu; }), Catch::Contains("train.device=cuda"));
  CHECK_THAT(refused([](auto& c) { c.train.compute_dtype = ComputeDtype::float32; }), Catch::Contains("bfloat16"));
  CHECK_THAT(refused([](auto& c) { c.model.expert_width = 1000; }), Catch::Contains("2048 and 1000"));
  config.model.ffn = Ffn::dense;  // has no experts
  config.train.device = DeviceKind::cpu;
  CHECK(validate(config).empty());
}

TEST_CASE("nondeterministic and cuDNN attention are refused where they do not exist") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  CHECK(config.train.attention_kernel == kernels::AttentionKernel::flash);
  CHECK(config.train.deterministic_attention);
  config.train.device = DeviceKind::cuda;
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.model.d_model = config.model.expert_width = 64;
  config.model.num_heads = config.model.num_kv_heads = 4;
  const auto refused = [&](const std::string& beginning, const std::function<void(Config&)>& spoil) {
    auto spoilt = config;
    spoil(spoilt);
    const auto problems = validate(spoilt);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith(beginning));
    return problems[0];
  };
  const auto cpu = [](auto& c) { c.train.device = DeviceKind::cpu; };
  const auto fp32 = [](auto& c) { c.train.compute_dtype = ComputeDtype::float32; };
  SECTION("in any order") {
    config.train.deterministic_attention = false;
    CHECK(validate(config).empty());
    const auto* const key = "train.deterministic_attention: false needs train.device=cuda and ";
    refused(key, cpu);
    refused(key, fp32);
  }
  SECTION("cuDNN's") {
    config.train.attention_kernel = kernels::AttentionKernel::cudnn;
    CHECK(validate(config).empty());
    const auto* const key = "train.attention_kernel: cudnn needs ";
    CHECK_THAT(refused(key, cpu), Catch::Contains("train.device=cuda; use flash"));
    CHECK_THAT(refused(key, fp32), Catch::Contains("bfloat16; use flash"));
    CHECK_THAT(refused(key, [](auto& c) { c.model.d_model = 48; }), Catch::Contains("at most 256, not 12"));
    const auto long_sequences = [](auto& c) {
      c.data.sequence_length = int64_t{1} << 24;
      c.train.micro_batch_size = c.train.global_batch_size = 127;
      c.model.d_model = 1024;
      c.model.num_heads = c.model.num_kv_heads = 128;
      c.model.num_experts = c.model.top_k = 1;
    };
    CHECK_THAT(refused(key, long_sequences), Catch::Contains("9.15e+18 bytes"));
    config.train.deterministic_attention = false;  // whose workspace does not grow with the square
    long_sequences(config);
    CHECK(validate(config).empty());
  }
}

TEST_CASE("load_config lists the problems of a file together, with the path") {
  try {
    load_config(kConfigs + "/olmoe-1b-7b.yaml", {"model.top_k=65", "train.steps=0", "optimizer.eps=-1"});
    FAIL("a bad config was accepted");
  } catch (const ConfigError& error) {
    for (const char* part : {"olmoe-1b-7b.yaml", "model.top_k", "train.steps", "optimizer.eps"})
      CHECK_THAT(error.what(), Catch::Contains(part));
  }
}

TEST_CASE("docs/config.md lists the fields as they are; OLMOE_UPDATE_DOCS=1 writes it") {
  const auto text =
      "# Config\n"
      "\n"
      "Every field of a run's config, as the program itself lists them; a test keeps this page true. A"
      " file may name\n"
      "another one to lay beneath it, `base: other.yaml`, and the command line may change any field, "
      "`train.steps=100`.\n"
      "\n"
      "A value stands on one line. An integer may be written `1e6`. On the command line "
      "`train.init_from=` is empty text, and text\n"
      "that looks like YAML needs quotes of its own: `'run.folder=\"a #1\"'`.\n"
      "\n"
      "Relative paths: what is typed on the command line starts from the working directory. Of what "
      "stands in a file, `base` and\n"
      "`data.paths_file` start from the folder of that file; token files from `data.root`, or the "
      "working directory where none is\n"
      "given; `run.folder`, `train.init_from`, `train.replay_routing` and `data.root` from the working "
      "directory. Typed token\n"
      "files start from `data.root` only where that is typed too. `~/` is the home folder; variables such as `$HOME` "
      "are refused.\n"
      "\n" +
      document_config<Config>();
  const char* update = std::getenv("OLMOE_UPDATE_DOCS");
  if (update != nullptr && std::string(update) == "1") write_text_atomic(kDocument, text);
  CHECK(read_text(kDocument) == text);
}
