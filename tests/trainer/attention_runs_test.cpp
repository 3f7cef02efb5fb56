// Runs of attention variants: over ranks and micro-batches, and resumed.
#include "data/documents.h"
#include "data/token_files.h"
#include "support/attention_variants.h"
#include "support/layout_ladder.h"
#include "support/oracle_check.h"
#include "trainer/held_out_loss.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Three micro-batches of at most two sequences a step; experts that two and four ranks divide.
Config variant_run(const std::string& folder, const AttentionVariant& variant) {
  auto config = tiny_run(folder);
  config.model.num_experts = 4;
  config.model = with(variant, config.model);
  if (!variant.documents) return config;
  config.model.vocab_size = 10;  // so that documents are short
  config.data.document_mask = DocumentMask::eos;
  config.data.eos_id = 3;
  return config;
}

Config document_run(const std::string& folder) {
  return variant_run(folder, {"", [](ModelConfig& model) { model.scalable_softmax = true; }, true});
}

}  // namespace

TEST_CASE("every attention variant gives on four ranks with expert parallelism what one rank gives, in ZeRO-1 and 3") {
  for (const auto& variant : attention_variants()) {
    TempFolder folder;
    const auto reference = run_single(variant_run(folder / "single", variant));
    for (const Layout layout : {Layout{1, 4, 2, 1}, Layout{1, 4, 2, 3}, Layout{2, 2, 1, 3}}) {
      INFO(variant.name << ", " << describe(layout));
      CHECK(error_on_threads(variant_run(folder / describe(layout), variant), layout, reference) <= 1e-12);
    }
  }
}

TEST_CASE("held-out losses are within documents where training is") {
  TempFolder folder;
  auto config = document_run(folder / "run");
  std::string bytes;
  for (int i = 0; i < 60; ++i) bytes += {static_cast<char>(i * 7 % 10), '\0'};
  const auto tokens = folder.add("held.npy", bytes);
  config.evaluation.paths = {tokens};
  OneRank rank(config.model, at::kDouble);
  const auto loss = [&](const Config& of) {
    const auto task = held_out_losses(of).front().make({tokens}, /*reads_all=*/true);
    return task->run(rank.runner, *rank.world, [] { return false; })->front().value;
  };
  const auto dataset = std::make_shared<TokenDataset>(std::vector{tokens}, TokenDtype::uint16, 12, 10);
  const std::shared_ptr<const SequenceSource> source = make_file_source(dataset, 0, /*shuffle=*/false);
  const auto batch = make_batch(*make_eos_documents(source, 3), 0, 5);
  CHECK(batch.bounds.numel() > 10);
  const double expected = rank.runner.evaluate(batch).item<double>() / static_cast<double>(batch.num_targets);
  CHECK(loss(config) == Approx(expected).epsilon(1e-12));
  auto whole = config;
  whole.data.document_mask = DocumentMask::none;
  whole.data.eos_id.reset();
  CHECK(std::abs(loss(whole) - expected) > 1e-3);
  auto by_table = whole;
  by_table.data.document_mask = DocumentMask::table;
  CHECK_THROWS_WITH(loss(by_table), Catch::Contains("has no document table"));
}

TEST_CASE("a run within documents resumes bit for bit, and refuses another mask by its key") {
  TempFolder folder;
  const auto saving = [&](const std::string& name) {
    auto config = document_run(folder / name);
    config.checkpoint.every_steps = 1;
    config.checkpoint.keep = 0;
    return config;
  };
  const auto run = [](Config config, int64_t steps) {
    config.train.steps = steps;
    config.schedule.decay_steps = 4;
    run_to_the_end(2, config);
  };
  const auto whole = saving("whole"), cut = saving("cut");
  run(whole, 4);
  run(cut, 2);
  auto changed = cut;
  changed.data.eos_id = 4;
  CHECK_THROWS_WITH(run(changed, 4), Catch::Contains("data.eos_id"));
  changed = cut;
  changed.data.document_mask = DocumentMask::none;
  changed.data.eos_id.reset();
  CHECK_THROWS_WITH(run(changed, 4), Catch::Contains("data.document_mask"));
  run(cut, 4);
  CHECK(lines_of(cut.run.folder) == lines_of(whole.run.folder));
  for (const int rank : {0, 1}) {
    const auto file = fmt::format("shard_{:05}.safetensors", rank);
    CHECK(read_text(step_folder(cut, 4) + "/" + file) == read_text(step_folder(whole, 4) + "/" + file));
  }
}
