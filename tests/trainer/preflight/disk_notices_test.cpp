#include "trainer/preflight/disk_notices.h"

#include "core/text.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

TEST_CASE("what a run's checkpoints take is said with those that are in its folder, and what will not fit") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  CHECK(describe_disk(config).text.empty());  // saves nothing
  config.checkpoint = {.every_steps = 300, .keep = 1};
  config.train.steps = 1000;
  const auto each = describe_size(plan_saves(config, 0, 0).each_bytes);
  CHECK_THAT(describe_disk(config).text,
             Catch::StartsWith(fmt::format("checkpoints: {} each, at most 2 at one", each)) &&
                 Catch::EndsWith(" are free on the disk\n"));
  folder.add("run/checkpoints/step_000000300/manifest.json", "not read");
  folder.add("run/checkpoints/step_000000600/manifest.json", "");
  CHECK_THAT(describe_disk(config).text, Contains(" at most 3 at one time, ") && Contains(each + " more than now"));
  config.model.vocab_size = 1 << 24;  // 39 TB
  config.model.d_model = 1 << 16;
  const auto too_large = describe_disk(config);
  CHECK_THAT(too_large.text, Contains("notice: run.folder: ") &&
                                 Contains(" more of checkpoints will not fit into the ") &&
                                 Contains("notice: run.folder: a checkpoint takes "));
  CHECK_THAT(too_large.refused, Catch::StartsWith("run.folder: a checkpoint takes "));
}

TEST_CASE("a run that goes back is planned from the step that it goes back to") {
  const TempFolder folder;
  auto config = saving_run(folder / "run");
  config.checkpoint = {.every_steps = 1, .keep = 0};
  config.train.steps = 4;
  run_to_the_end(1, config);
  const auto each = plan_saves(config, 0, 0).each_bytes;
  const auto planned = [&](int64_t more) {
    return Contains(fmt::format(" {} more than now;", describe_size(more * each)));
  };
  config.train.steps = 10;
  CHECK_THAT(describe_disk(config).text, Contains(" at most 10 at one time") && planned(6));
  config.checkpoint.resume = "2";
  CHECK_THAT(describe_disk(config).text, Contains(" at most 10 at one time") && planned(8));
}
