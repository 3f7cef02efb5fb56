// Held-out sets: their names, and the loss of one made of several files.
#include "support/catch.h"
#include "support/trainer_fixtures.h"

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
