// Held-out sets: their names, and the loss of one made of several files.
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/evaluator.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

}  // namespace

TEST_CASE("a set takes its name from its file, or from the config, and may have several files") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.train.steps = 1;
  const auto a = folder.add("a/held_out.npy", token_bytes(90, 7));   // 7 sequences
  const auto b = folder.add("b/held_out.npy", token_bytes(40, 11));  // 3
  const std::string odd = R"(b, "of" {b}: #1)";
  config.evaluation.paths = {a};
  config.evaluation.sets = {{odd, {b}}, {"both", {a, b}}};
  REQUIRE(validate(config).empty());
  const auto line = run_single(config).metrics.back();
  const double first = line.at("eval/held_out/loss"), second = line.at("eval/" + odd + "/loss");
  CHECK(first != Approx(second).epsilon(1e-6));
  CHECK(line.at("eval/both/loss").get<double>() == Approx((7 * first + 3 * second) / 10).epsilon(1e-12));
}

TEST_CASE("a set is made of the files that are here, in a dry run of some of them") {
  TempFolder folder;
  auto config = tiny_run(folder / "run");
  const auto a = folder.add("a.npy", token_bytes(90, 7)), b = folder.add("b.npy", token_bytes(40, 11));
  config.evaluation.sets = {{"both", {a, b}}, {"odd", {folder.add("odd.npy", "odd")}}};
  const auto tasks = planned_tasks(config);
  REQUIRE(tasks.size() == 2);
  CHECK(tasks[0].name == "evaluation set both");
  CHECK(tasks[0].files == std::vector<std::string>{a, b});
  const auto whole = tasks[0].make(tasks[0].files, /*reads_all=*/true);
  CHECK(whole->name() == "both");
  CHECK(whole->size().sequences == 7 + 3);
  CHECK(whole->size().tokens == 10 * config.data.sequence_length);
  CHECK(tasks[0].make({b}, true)->size().tokens == 40);  // whatever its length: the file that is missing may be longer
  std::vector<std::string> seen;
  const auto make_all = [&] {
    for_each_task(config, [&](const PlannedTask& task) {
      seen.push_back(task.name);
      task.make(task.files, false);
    });
  };
  CHECK_THROWS_WITH(make_all(), Catch::StartsWith("evaluation set odd: ") && Catch::Contains("3 bytes"));
  config.evaluation.sets[0].paths.push_back(folder / "gone.npy");
  CHECK_THROWS_WITH(make_all(), Catch::StartsWith("evaluation set both: ") && Catch::Contains("gone.npy") &&
                                    Catch::Contains("\nevaluation set odd: "));
  CHECK(seen.size() == 4);
}

TEST_CASE("two sets of one name are refused with how to name them") {
  EvaluationConfig config;
  config.paths = {"a/x.npy", "y.npy", "b/x.bin"};
  const auto problems = validate(config);
  REQUIRE(problems.size() == 1);
  CHECK_THAT(problems[0], Catch::StartsWith("evaluation.paths[2]: a second set named x, after evaluation.paths[0]") &&
                              Catch::Contains("evaluation.sets: [{name: A, paths: [FILE]}"));
}

TEST_CASE("sets are written, read and compared as the rest of a config") {
  Config config;
  config.run.folder = "run";
  config.evaluation.sets = {{"wiki, \"de\"", {"a b.npy", "c.npy"}}, {"code", {"d.npy"}}};
  const auto again = read_config_text<Config>(write_config(config), "resolved");
  CHECK(differing_fields(config, again).empty());
  CHECK(again.evaluation.sets.at(0).name == "wiki, \"de\"");
  CHECK(again.evaluation.sets.at(0).paths.at(1) == "c.npy");
  CHECK(differing_fields(config, Config{}).size() >= 2);
}
