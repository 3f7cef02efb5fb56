// Keys of a schedule or an optimizer that have no effect are said before the first step.
#include "trainer/preflight/schedule_notices.h"

#include "support/trainer_fixtures.h"

using namespace olmoe;
using namespace olmoe::test;

TEST_CASE("keys of Muon, of a cooldown and of smaller batches are said to have no effect where there are none") {
  auto config = tiny_run("unused");
  config.train.steps = 1000;
  REQUIRE(schedule_notices(config).empty());
  config.optimizer.muon.qkv = QkvMatrices::heads;
  config.optimizer.muon.router = true;
  config.schedule.cooldown_steps = 5;
  config.schedule.batch_lr_power = 0.5;
  CHECK(
      schedule_notices(config) ==
      std::vector<std::string>{"optimizer.muon.qkv, optimizer.muon.router: no effect with optimizer.kind: adamw",
                               "schedule.cooldown_steps, schedule.cooldown_shape: no effect with schedule.kind: cosine",
                               "schedule.batch_lr_power: 0.5 has no effect without train.batch_size_warmup"});
  config.optimizer.kind = OptimizerKind::muon;
  config.schedule.kind = ScheduleKind::wsd;
  config.train.batch_size_warmup = {{.until_step = 2, .global_batch_size = 3}};
  CHECK(schedule_notices(config).empty());
}
