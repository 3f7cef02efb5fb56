#include "trainer/config/parameter_groups.h"

#include "model/flops.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/optimizer_limits.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

std::vector<std::string> problems(std::vector<ParamGroup> groups) {
  OptimizerConfig config;
  config.groups = std::move(groups);
  return validate_groups(config, tiny_model());
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("a pattern that matches no parameter is refused by key, with names that there are") {
  CHECK(problems({{.match = "blocks.*.moe.router.weight"}, {.match = "blocks.*.moe.gate.weight"}}) ==
        Lines{"optimizer.groups[1].match: blocks.*.moe.gate.weight matches no parameter; they are named "
              "embedding.weight, blocks.1.attention.k_norm.weight and so on"});
  CHECK(problems({{.match = ""}}).size() == 1);
  CHECK(problems({{.match = "router.weight"}}).size() == 1);  // a pattern is of the full name
  auto dense = tiny_model();
  dense.ffn = Ffn::dense;
  OptimizerConfig routers;
  routers.groups = {{.match = "*.router.weight", .lr_scale = 2}};
  CHECK_THAT(validate_groups(routers, dense).at(0), Catch::Contains("matches no parameter"));
}

TEST_CASE("a parameter that two groups match is refused by both patterns and its name") {
  CHECK(problems({{.match = "blocks.[01].*", .lr_scale = 2}, {.match = "*.router.weight", .frozen = true}}) ==
        Lines{"optimizer.groups[1].match: *.router.weight matches blocks.0.moe.router.weight, and so does "
              "blocks.[01].* of optimizer.groups[0]: a parameter has one group at most"});
  CHECK(problems({{.match = "blocks.[01].*", .lr_scale = 2}, {.match = "blocks.2.moe.router.weight", .frozen = true}})
            .empty());
}

TEST_CASE("what has no meaning for frozen parameters, and a model that is frozen as a whole, are refused by key") {
  CHECK(problems({{.match = "head.weight", .lr_scale = 0.5, .weight_decay = 0.0, .frozen = true}}) ==
        Lines{"optimizer.groups[0].lr_scale: has no meaning for what is frozen; leave it out",
              "optimizer.groups[0].weight_decay: has no meaning for what is frozen; leave it out"});
  CHECK(problems({{.match = "*", .frozen = true}}) ==
        Lines{"optimizer.groups: every parameter is frozen, so that nothing is trained"});
  CHECK(problems({{.match = "*", .lr_scale = 2}}).empty());
}

TEST_CASE("a group's rate and decay must survive the dtype of the update") {
  OptimizerConfig config{.lr = 1e-3};
  const auto problems_in = [&](ComputeDtype dtype) { return validate(config, dtype); };
  config.groups = {{.match = "*", .lr_scale = 1e-36}};
  CHECK_THAT(problems_in(ComputeDtype::bfloat16).at(0),
             Catch::StartsWith("optimizer.groups[0].lr_scale: a learning rate of 1e-39 vanishes in fp32"));
  config.groups = {{.match = "head.weight"}, {.match = "*", .lr_scale = 1e-4}};  // 0.1 * 1e-7 next to 1
  CHECK_THAT(problems_in(ComputeDtype::float32).at(0),
             Catch::StartsWith("optimizer.groups[1].weight_decay: 0.1 at lr 1e-07 vanishes next to 1 in fp32"));
  CHECK(problems_in(ComputeDtype::float64).empty());
  config.groups[1].weight_decay = 0;
  CHECK(problems_in(ComputeDtype::float32).empty());
}

TEST_CASE("a group's rate and decay must survive with Muon's own rate and decay too") {
  OptimizerConfig config{.kind = OptimizerKind::muon, .lr = 1e-3};
  const auto problems = [&] { return validate(config, ComputeDtype::float32); };
  config.groups = {{.match = "*", .lr_scale = 1e-2}};
  CHECK(problems().empty());
  config.muon.lr_scale = 1e-2;  // 0.1 * 1e-7 next to 1, of what the group matches alone
  CHECK(problems() == std::vector<std::string>{
                          "optimizer.groups[0].weight_decay: 0.1 at lr 1e-07 vanishes next to 1 in fp32, so that "
                          "nothing decays; use 0, or a larger value"});
  config.muon.weight_decay = 10;
  CHECK(problems().empty());
}

TEST_CASE("a rule is that of the group, or else of the section") {
  OptimizerConfig config{.weight_decay = 0.2, .decay_norms = false, .decay_embeddings = false};
  config.groups = {{.match = "blocks.0.*", .lr_scale = 3},
                   {.match = "final_norm.*", .weight_decay = 0.7},
                   {.match = "head.?eight", .frozen = true}};
  REQUIRE(validate_groups(config, tiny_model()).empty());
  const auto check = [&](const std::string& name, ParamRole role, double lr_scale, double weight_decay, bool frozen) {
    const auto rule = rule_of(config, name, role);
    INFO(name);
    CHECK(rule.lr_scale == lr_scale);
    CHECK(rule.weight_decay == weight_decay);
    CHECK(rule.frozen == frozen);
  };
  check("blocks.0.moe.router.weight", ParamRole::router, 3, 0.2, false);
  check("blocks.0.ffn_norm.weight", ParamRole::norm, 3, 0, false);
  check("blocks.1.moe.router.weight", ParamRole::router, 1, 0.2, false);
  check("final_norm.weight", ParamRole::norm, 1, 0.7, false);
  check("embedding.weight", ParamRole::embedding, 1, 0, false);
  CHECK(rule_of(config, "head.weight", ParamRole::matrix).frozen);
  CHECK(count_moments(config, tiny_model()) == 2 * (count_parameters(tiny_model()).total - 50 * 24));
  CHECK(describe_groups(config, tiny_model()) ==
        Lines{"optimizer.groups[0]: blocks.0.* is 9 parameters of 6,252 values: learning rate x 3",
              "optimizer.groups[1]: final_norm.* is 1 parameter of 24 values: learning rate x 1, weight decay 0.7",
              "optimizer.groups[2]: head.?eight is 1 parameter of 1,200 values: frozen"});
}

TEST_CASE("what a run froze before it resumes decides, not how the groups are written") {
  OptimizerConfig one, two, other, none;
  one.groups = {{.match = "*.router.weight", .frozen = true}};
  two.groups = {{.match = "head.weight", .lr_scale = 2},
                {.match = "blocks.[0-1].moe.router.weight", .frozen = true},
                {.match = "blocks.2.moe.router.weight", .frozen = true}};
  other.groups = {{.match = "blocks.[0-1].moe.router.weight", .frozen = true}};
  const auto model = tiny_model();
  CHECK(moments_problem(one, two, model).empty());
  CHECK_THAT(moments_problem(one, other, model),
             Catch::StartsWith("optimizer.groups: blocks.2.moe.router.weight was frozen and would be trained now"));
  CHECK_THAT(moments_problem(none, other, model),
             Catch::StartsWith("optimizer.groups: blocks.0.moe.router.weight was trained and would be frozen now"));
}

TEST_CASE("groups are read from a config and refused with it") {
  const auto load = [](const std::string& groups) {
    return load_config(OLMOE_SOURCE_DIR "/configs/tiny-cpu.yaml", {"run.folder=x", "optimizer.groups=" + groups});
  };
  const auto config =
      load("[{match: '*.router.weight', lr_scale: 0.5, weight_decay: 0}, {match: head.*, frozen: true}]");
  REQUIRE(config.optimizer.groups.size() == 2);
  CHECK(config.optimizer.groups[0].lr_scale == 0.5);
  CHECK(config.optimizer.groups[0].weight_decay == 0.0);
  CHECK(config.optimizer.groups[1].frozen);
  const auto check_refused = [&](const std::string& groups, const std::string& why) {
    CHECK_THROWS_WITH(load(groups), Catch::Contains(why));
  };
  check_refused("[{lr_scale: 2}]", "optimizer.groups[0].match");
  check_refused("[{match: '*.gate', lr_scale: 2}]", "optimizer.groups[0].match: *.gate matches no parameter");
  check_refused("[{match: '*', lr_scale: 0}]", "optimizer.groups[0].lr_scale");
  check_refused("[{match: '*', weight_decay: -1}]", "optimizer.groups[0].weight_decay");
}
