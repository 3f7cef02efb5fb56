#include "trainer/planner/plan.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <filesystem>
#include <limits>
#include <set>

#include "support/catch.h"
#include "support/layout_ladder.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/planner/plan_report.h"

namespace {

using namespace olmoe;
using Catch::Contains;

constexpr size_t kRecomputeModes = EnumNames<Recompute>::names.size();

Config published(const std::vector<std::string>& overrides = {}) {
  return load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", overrides);
}

/// As a text that no two layouts share.
std::string key_of(const Layout& l) {
  return fmt::format("{} {} {} {} {}", l.mesh.replicate, l.mesh.shard, l.mesh.expert, l.zero_stage,
                     static_cast<int>(l.recompute));
}

template <class Layouts>
std::set<std::string> keys_of(const Layouts& layouts) {
  std::set<std::string> out;
  for (const auto& layout : layouts) out.insert(key_of(layout));
  return out;
}

std::vector<Layout> layouts_in(const std::vector<PlannedLayout>& planned) {
  std::vector<Layout> out;
  for (const auto& p : planned) out.push_back(p.layout);
  return out;
}

}  // namespace

TEST_CASE("every layout of a world is listed exactly once, and a run takes each of them") {
  for (const int world : {1, 2, 6, 8, 12, 24, 60, 64}) {
    const auto config = published();
    const auto layouts = list_layouts(config, world);
    size_t expected = 0;
    for (const auto& layout : test::layouts_of(world)) expected += 64 % layout.expert == 0 ? kRecomputeModes : 0;
    INFO("world " << world);
    CHECK(layouts.size() == expected);
    CHECK(keys_of(layouts).size() == expected);
    for (const auto& layout : layouts) {
      const auto laid_out = with_layout(config, layout);
      const auto mesh = mesh_shape(laid_out, world);
      CHECK(Layout{mesh, laid_out.parallel.zero_stage, laid_out.train.recompute} == layout);
    }
  }
}

TEST_CASE("no layout is proposed with which the trainer would refuse the config") {
  struct Override {
    std::vector<std::string> keys;
    bool experts_apart;  ///< whether layouts with parallel.expert > 1 remain
  };
  const std::vector<Override> overrides{{{}, true},
                                        {{"parallel.expert_chunks=4"}, true},
                                        {{"model.capacity_factor=1.25"}, true},
                                        {{"train.cuda_graph=true"}, false},
                                        {{"train.cuda_graph=true", "parallel.reduce_dtype=bfloat16"}, false},
                                        {{"model.ffn=dense"}, false},
                                        {{"model.ffn=dense", "train.cuda_graph=true"}, false}};
  for (const auto& [keys, experts_apart] : overrides) {
    INFO(fmt::format("{}", fmt::join(keys, " ")));
    auto config = published(keys);
    config.data.paths.clear();
    config.data.synthetic = true;
    const auto planned = plan_layouts(config, 8, find_gpu("h100"));
    size_t apart = 0;
    for (const auto& p : planned) {
      const auto laid_out = with_layout(config, p.layout);
      CHECK(validate(laid_out).empty());
      CHECK_NOTHROW(mesh_shape(laid_out, 8));
      apart += p.layout.mesh.expert > 1 ? 1 : 0;
    }
    CHECK((apart > 0) == experts_apart);
    // 1, 2, 4 or 8 of the ranks share one copy; of these 1, 2, 4 or 8 the experts.
    CHECK(planned.size() == (experts_apart ? 1 + 2 + 3 + 4 : 4) * 3 * kRecomputeModes);
  }
}

TEST_CASE("a dense model has no layouts with experts on several ranks") {
  const auto config = load_config(OLMOE_SOURCE_DIR "/configs/olmo-1b-dense.yaml", {});
  const auto layouts = list_layouts(config, 8);
  CHECK(layouts.size() == 4 * 3 * kRecomputeModes);
  for (const auto& layout : layouts) CHECK(layout.mesh.expert == 1);
}

TEST_CASE("the fastest layout that fits is first; layouts that do not fit are last") {
  for (const int gpus : {1, 8, 64, 256}) {
    const auto config = published();
    const auto& gpu = find_gpu("h100");
    const auto planned = plan_layouts(config, gpus, gpu);
    INFO("gpus " << gpus);
    CHECK(keys_of(layouts_in(planned)) == keys_of(list_layouts(config, gpus)));
    bool all_fit = true;
    double step_s = 0;
    for (const auto& p : planned) {
      CHECK(p.fits == (static_cast<double>(p.memory.total()) <= 0.9 * 80e9));
      CHECK((all_fit || !p.fits));
      all_fit = all_fit && p.fits;
      if (p.fits) CHECK(p.step.step_s >= step_s);
      step_s = p.step.step_s;
    }
    CHECK(!planned.back().fits);  // whole state on one GPU: 110 GB
    CHECK(planned.front().fits == (gpus > 1));
  }
}

TEST_CASE("a plan is what the parts say of that layout") {
  const auto config = published();
  const auto planned = plan_layouts(config, 64, find_gpu("h200"));
  for (size_t i = 0; i < planned.size(); i += 7) {
    const auto& p = planned[i];
    const auto laid_out = with_layout(config, p.layout);
    CHECK(p.memory.total() == plan_memory(laid_out, p.layout.mesh).total());
    CHECK(p.step.step_s == predict_step(laid_out, p.layout.mesh, find_gpu("h200")).step_s);
    CHECK(p.bytes.gather_dense == count_collective_bytes(laid_out, p.layout.mesh, {}).gather_dense);
    CHECK((p.bytes.exchange > 0) == (p.layout.mesh.expert > 1));
    CHECK((p.bytes.replicas > 0) == (p.layout.mesh.replicate > 1));
  }
}

TEST_CASE("an initial router dispatches as many copies of tokens as planned, within 5 %") {
  const int ranks = GENERATE(2, 3, 4);
  const TempFolder folder;
  auto config = test::tiny_run(folder / "run");
  config.model.num_experts = 12;
  config.model.top_k = 3;
  config.model.init_std = 0.02;
  config.train.compute_dtype = ComputeDtype::float32;
  config.train.steps = 1;
  config.train.micro_batch_size = 8;
  config.train.global_batch_size = 16 * ranks;  // two accumulation steps
  config.data.sequence_length = 64;
  config.parallel.expert = ranks;
  std::atomic<int64_t> sent = 0, received = 0;
  run_ranks(ranks, [&](Communicator& world) {
    Trainer trainer(resolve_run(config, world.size()), world);
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
    sent += trainer.token_copies().sent;
    received += trainer.token_copies().received;
  });
  const auto of_rank = expected_copies_of_step(config.model, {1, ranks, ranks}, 16 * config.data.sequence_length);
  INFO(fmt::format("{} ranks: {} copies were sent", ranks, sent.load()));
  CHECK(sent == received);
  CHECK(static_cast<double>(sent) == Approx(static_cast<double>(of_rank.sent * ranks)).epsilon(0.05));
}

TEST_CASE("the plan as text and as JSON") {
  const auto config = published();
  const auto& gpu = find_gpu("h100");
  const auto planned = plan_layouts(config, 64, gpu);
  const auto text = describe_plan(config, 64, gpu, planned, 5);
  for (const auto* expected : {"6.919 G, 1.282 G active", "7.879 G with causal attention",
                               "predicted, no GPU has confirmed it", "GPU-hours", "best: parallel.replicate="})
    CHECK_THAT(text, Contains(expected));
  CHECK_THAT(text, Contains(fmt::format("{} layouts", planned.size())) && Contains("5 shown"));
  const auto of = [&](size_t variant) { return planned.front().variants.at(variant).step->step_s * 1e3; };
  CHECK_THAT(text, Contains(fmt::format(" {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} ", of(0), of(2), of(1), of(3),
                                        planned.front().step.exposed_s * 1e3)));
  const auto on_a100 = plan_layouts(config, 64, find_gpu("a100"));
  CHECK_THAT(describe_plan(config, 64, find_gpu("a100"), on_a100, 1), Contains("         -         -         - "));
  CHECK_THAT(plan_json(config, 64, find_gpu("a100"), on_a100), Contains("\"refused\": \"train.expert_kernels"));
  CHECK_THAT(describe_plan(config, 64, gpu, planned, planned.size()), Contains("  no "));
  CHECK_THAT(describe_plan(config, 1024, gpu, planned, 1), Contains("only 256 of 1024 GPUs have tokens"));

  const auto json = nlohmann::json::parse(plan_json(config, 64, gpu, planned));
  CHECK(json["checkpoints"]["each_bytes"] == 83'029'942'272);
  CHECK(json["checkpoints"]["bytes"].get<int64_t>() == json["checkpoints"]["most"].get<int64_t>() * 83'029'942'272);
  CHECK(json.at("parameters").at("total") == 6919161856);
  CHECK(json.at("layouts").size() == planned.size());
  const auto& best = json.at("layouts").at(0);
  CHECK(best.at("step_s") == planned.front().step.step_s);
  REQUIRE(best.at("variants").size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    const auto& variant = best.at("variants").at(i);
    CHECK(variant.at("expert_kernels") == (i < 2 ? "unfused" : "fused"));
    CHECK(variant.at("cuda_graph") == (i % 2 == 1));
    CHECK(variant.at("step_s") == planned.front().variants.at(i).step->step_s);
  }
  CHECK(best.at("memory_bytes").at("total") == planned.front().memory.total());
  CHECK(best.at("sent_bytes").at("total") == planned.front().bytes.total());
  int64_t kinds = 0;
  for (const auto& [kind, size_bytes] : best.at("memory_bytes").items())
    if (kind != "total") kinds += size_bytes.get<int64_t>();
  CHECK(kinds == planned.front().memory.total());
}

TEST_CASE("a plan needs no tables of documents") {
  auto config = published();
  config.data.document_mask = DocumentMask::table;
  const auto planned = plan_layouts(config, 8, find_gpu("h100"));
  config.data.document_mask = DocumentMask::eos;
  config.data.eos_id = 50279;
  const auto by_eos = plan_layouts(config, 8, find_gpu("h100"));
  REQUIRE(planned.size() == by_eos.size());
  CHECK(planned.front().memory.total() == by_eos.front().memory.total());
  CHECK(planned.front().step.step_s == by_eos.front().step.step_s);
}

TEST_CASE("what cannot be planned is refused") {
  const auto& gpu = find_gpu("h100");
  CHECK_THROWS_WITH(plan_layouts(published(), 0, gpu), Contains("--gpus: 0"));
  CHECK_THROWS_WITH(plan_layouts(published(), 4097, gpu), Contains("--gpus: 4097"));
  CHECK_THROWS_AS(plan_layouts(published({"train.compute_dtype=float32"}), 8, gpu), ConfigError);
  CHECK_THROWS_AS(plan_layouts(published({"parallel.transport=host"}), 8, gpu), ConfigError);
  auto invalid = published();
  invalid.train.steps = 0;
  CHECK_THROWS_WITH(plan_layouts(invalid, 8, gpu), Contains("no layout of 8 GPUs: train.steps: 0"));
}

TEST_CASE("config, mesh, plan and checkpoint metadata of 4096 ranks take less than a second of CPU", "[timed]") {
  constexpr int kRanks = 4096;
  double cpu_s = std::numeric_limits<double>::infinity();  // the smallest of three: a busy core can only add to it
  for (int round = 0; round < 3; ++round) {
    const TempFolder temporary;
    const auto folder = temporary / "checkpoint";
    std::filesystem::create_directories(folder);
    const std::clock_t begin = std::clock();
    const auto config = published({"parallel.shard=0", "train.micro_batch_size=1"});
    const auto mesh = mesh_shape(config, kRanks);
    const auto planned = plan_layouts(config, kRanks, find_gpu("h100"));
    const ModelOnMesh model(config, mesh);
    Manifest manifest;
    manifest.config = write_config(config);
    for (int rank = 0; rank < kRanks; ++rank) {
      int64_t values = 0;
      for (const auto& stage : model.stages)
        for (const auto* unit : stage.all()) values += unit->slice();
      const std::string hash(32, '0');
      Manifest::ShardFile file{fmt::format("shard_{:05}.safetensors", rank), 3 * 4 * values, 8, hash, {}};
      file.block_hashes.resize(file.num_blocks(), hash);
      manifest.files.push_back(std::move(file));
    }
    manifest.write(folder);
    const auto read = Manifest::read(folder);
    cpu_s = std::min(cpu_s, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
    CHECK(mesh.shard == kRanks);
    CHECK(planned.size() == list_layouts(config, kRanks).size());
    CHECK(planned.front().fits);
    CHECK(read.files.size() == kRanks);
  }
  WARN("config, mesh, plan and checkpoint metadata of 4096 ranks: " << cpu_s << " s");
  CHECK(cpu_s < 1);
}
