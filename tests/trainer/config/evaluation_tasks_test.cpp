// Task files in a config: their names, when they are scored, lists of them.
#include <fmt/ranges.h>

#include "support/catch.h"
#include "support/temp_folder.h"
#include "trainer/config/config.h"
#include "trainer/config/config_paths.h"

namespace {

using namespace olmoe;

using Paths = std::vector<std::string>;

const std::string kRun = "run: {folder: runs/x}\ntrain: {steps: 1}\ndata: {synthetic: true}\n";

/// The problems of a config whose evaluation is `evaluation`, joined.
std::string problems_of(const EvaluationConfig& evaluation) {
  return fmt::format("{}", fmt::join(validate(evaluation), "\n"));
}

}  // namespace

TEST_CASE("tasks are named by their files, and final ones that are scored anyway are there once") {
  EvaluationConfig config;
  config.tasks = {"a/piqa.safetensors", "a/boolq.safetensors"};
  config.final_tasks = {"a/copa.safetensors", "a/piqa.safetensors"};
  const auto tasks = evaluation_tasks(config);
  REQUIRE(tasks.size() == 3);
  CHECK(tasks[0].name == "piqa");
  CHECK(tasks[0].path == "a/piqa.safetensors");
  CHECK_FALSE(tasks[0].at_end_only);
  CHECK_FALSE(tasks[1].at_end_only);
  CHECK(tasks[2].name == "copa");
  CHECK(tasks[2].at_end_only);
  CHECK(problems_of(config).empty());
}

TEST_CASE("two tasks of one name, and a task named as a set, are refused") {
  EvaluationConfig config;
  config.tasks = {"a/piqa.safetensors", "b/piqa.safetensors"};
  CHECK_THAT(problems_of(config), Catch::StartsWith("evaluation.tasks: b/piqa.safetensors: the name piqa is taken by "
                                                    "a/piqa.safetensors"));
  config.tasks = {"a/piqa.safetensors"};
  config.final_tasks = {"c/wiki.safetensors"};
  config.sets = {{"wiki", {"wiki.npy"}}};
  CHECK_THAT(problems_of(config), Catch::StartsWith("evaluation.final_tasks: c/wiki.safetensors: the name wiki is "
                                                    "taken by evaluation.sets[0]"));
}

TEST_CASE("a list stands for the task files in it, relative to itself") {
  const TempFolder folder;
  const auto list = folder.add("tasks/fast.txt", "# the fast group\npiqa.safetensors\nmore/copa.safetensors\n");
  folder.add("tasks/none.txt", "# nothing\n");
  const auto path = folder.add("run.yaml", kRun + "evaluation:\n  tasks: [" + list + ", boolq.safetensors]\n");
  const auto config = load_config(path, {"evaluation.final_tasks=[" + list + "]"});
  const Paths listed{folder / "tasks/piqa.safetensors", folder / "tasks/more/copa.safetensors"};
  CHECK(config.evaluation.tasks == Paths{listed[0], listed[1], "boolq.safetensors"});
  CHECK(config.evaluation.final_tasks == listed);
  const auto refused = [&](const std::string& value) {
    CHECK_THROWS_WITH(load_config(path, {"evaluation.tasks=[" + value + "]"}), Catch::Contains("evaluation.tasks: "));
  };
  refused(folder / "tasks/gone.txt");
  refused(folder / "tasks/none.txt");
}

TEST_CASE("expert choice has no tasks, and checkpoints may be kept by a task's results") {
  Config config;
  config.run.folder = "run";
  config.train.steps = 1;
  config.data.synthetic = true;
  config.evaluation.tasks = {"piqa.safetensors"};
  config.evaluation.final_tasks = {"copa.safetensors"};
  REQUIRE(validate(config).empty());
  config.model.routing = RoutingMethod::expert_choice;
  CHECK_THAT(fmt::format("{}", fmt::join(validate(config), "\n")),
             Catch::Contains("evaluation.tasks: not with model.routing=expert_choice"));
  config.model.routing = RoutingMethod::token_choice;
  config.checkpoint.keep_best = 1;
  for (const auto* const metric : {"eval/piqa/acc", "eval/piqa/len_norm", "eval/piqa/ce_loss"}) {
    config.checkpoint.keep_best_metric = metric;
    CHECK(validate(config).empty());
  }
  for (const auto* const metric : {"eval/piqa/accuracy", "eval/copa/acc", "eval/piqa"}) {
    config.checkpoint.keep_best_metric = metric;
    const auto problems = validate(config);
    REQUIRE(problems.size() == 1);
    CHECK_THAT(problems[0], Catch::StartsWith("checkpoint.keep_best_metric: ") && Catch::Contains("eval/piqa/METRIC"));
  }
}
