// What the checkpoints of a run will take on disk, against figures that were computed by hand.
#include "trainer/planner/checkpoint_plan.h"

#include "support/catch.h"

namespace {

using namespace olmoe;

PlannedSaves planned(const std::vector<std::string>& overrides, int64_t step = 0, int64_t present = 0) {
  return plan_saves(load_config(OLMOE_SOURCE_DIR "/configs/olmoe-1b-7b.yaml", overrides), step, present);
}

}  // namespace

TEST_CASE("a checkpoint of OLMoE-1B-7B has three values of four bytes for each of 6,919,161,856 parameters") {
  const auto one = planned({"train.steps=10", "checkpoint.every_steps=0", "checkpoint.cadence=[]"});
  CHECK(one.each_bytes == 83'029'942'272);
  CHECK(one.saves == 1);  // the last step
  CHECK(one.all_bytes() == 83'029'942'272);
}

TEST_CASE("the newest, those that stay for good, the best, and one that is being written") {
  // 10 saves; at most 3 newest, of 5,000 and 10,000 that stay, 2 best, and one: 8 x 83,029,942,272.
  const std::vector<std::string> overrides{"train.steps=10000",
                                           "checkpoint.every_steps=1000",
                                           "checkpoint.cadence=[]",
                                           "checkpoint.keep=3",
                                           "checkpoint.keep_every_steps=5000",
                                           "checkpoint.keep_best=2",
                                           "checkpoint.keep_best_metric=eval/held/loss",
                                           "evaluation.sets=[{name: held, paths: [held.npy]}]"};
  const auto plan = planned(overrides);
  CHECK(plan.saves == 10);
  CHECK(plan.most == 8);
  CHECK(plan.all_bytes() == 664'239'538'176);
  CHECK(plan.needed_bytes() == 664'239'538'176);
  const auto resumed = planned(overrides, 6000, 5);  // 4, 5 and 6 thousand, and 2 best: 5 + 10,000 + 2 + one
  CHECK(resumed.saves == 4);
  CHECK(resumed.most == 9);
  CHECK(resumed.needed_bytes() == 332'119'769'088);  // of the 4 that are not there yet
}

TEST_CASE("with checkpoint.keep=0 all stay, those of a cadence too") {
  // 250 to 1,000: 4; 2,000 and 3,000; 3,500 is the last: 7 x 83,029,942,272.
  const auto plan = planned({"train.steps=3500", "checkpoint.every_steps=1000", "checkpoint.keep=0",
                             "checkpoint.cadence=[{until_step: 1000, every_steps: 250}]"});
  CHECK(plan.saves == 7);
  CHECK(plan.most == 7);
  CHECK(plan.all_bytes() == 581'209'595'904);
}

TEST_CASE("weights that stay of checkpoints that go are a third of one each") {
  // keep = 1: the newest and one being written; weights of 2,000, 4,000 and 6,000: 2 x 83,029,942,272 + 3 x
  // 27,676,647,424.
  const auto plan = planned({"train.steps=6000", "checkpoint.every_steps=1000", "checkpoint.cadence=[]",
                             "checkpoint.keep=1", "checkpoint.keep_weights_every_steps=2000"});
  CHECK(plan.most == 2);
  CHECK(plan.weights == 3);
  CHECK(plan.all_bytes() == 249'089'826'816);
}

TEST_CASE("a checkpoint has no moments of what is frozen, and weights that stay have all of them") {
  // 16 layers of 64 experts with 2,048 x 1,024 times three: 6,442,450,944 of 6,919,161,856 parameters.
  const auto plan =
      planned({"train.steps=6000", "checkpoint.every_steps=1000", "checkpoint.cadence=[]", "checkpoint.keep=1",
               "checkpoint.keep_weights_every_steps=2000", "optimizer.groups=[{match: '*.experts.*', frozen: true}]"});
  CHECK(plan.each_bytes == 4 * (6'919'161'856 + 2 * 476'710'912));
  CHECK(plan.weights_bytes == 4 * 6'919'161'856);
  CHECK(plan.all_bytes() == 2 * plan.each_bytes + 3 * plan.weights_bytes);
}
