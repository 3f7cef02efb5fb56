// AdamW with parameter groups: against formulas on one rank, every layout against one rank, and what resumes.
#include "support/catch.h"
#include "support/layout_ladder.h"
#include "support/optimizer_fixture.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Own rates and decays, whole frozen units (embedding, the experts of block 1), and frozen parameters between trained
/// ones.
std::vector<ParamGroup> mixed_groups() {
  return {{.match = "embedding.weight", .frozen = true},
          {.match = "blocks.1.moe.experts.*", .frozen = true},
          {.match = "blocks.0.moe.experts.gate_up.weight", .frozen = true},
          {.match = "blocks.*.attention.output.weight", .frozen = true},
          {.match = "*.router.weight", .lr_scale = 0.25, .weight_decay = 0.0},
          {.match = "*_norm.weight", .weight_decay = 0.6},
          {.match = "head.weight", .lr_scale = 3}};
}

bool is_frozen(const std::string& name) {
  return name == "embedding.weight" || name.starts_with("blocks.1.moe.experts.") ||
         name == "blocks.0.moe.experts.gate_up.weight" || name.ends_with("attention.output.weight");
}

double scale_of(const std::string& name) {
  return name.ends_with("router.weight") ? 0.25 : name == "head.weight" ? 3.0 : 1.0;
}

double decay_of(const std::string& name) {
  return name.ends_with("router.weight") ? 0.0 : name.ends_with("_norm.weight") ? 0.6 : 0.3;
}

Config grouped_run(Config config) {
  config.optimizer.groups = mixed_groups();
  config.optimizer.weight_decay = 0.3;
  return config;
}

OptimizerConfig grouped_config(std::vector<ParamGroup> groups) {
  return {.lr = 0.01,
          .beta1 = 0.8,
          .beta2 = 0.9,
          .eps = 1e-6,
          .weight_decay = 0.3,
          .clip_norm = 1,
          .groups = std::move(groups)};
}

struct Moments {
  at::Tensor m, v;
};

/// The pieces of one kind of state in a checkpoint.
std::vector<std::string> saved_names(const std::string& folder, const std::string& kind) {
  std::vector<std::string> out;
  for (const auto& tensor : CheckpointReader(folder).tensors())
    if (tensor.kind == kind) out.push_back(tensor.name);
  return out;
}

std::string error_of(const Config& config) {
  try {
    const auto world = make_single_communicator();
    Trainer(resolve_run(config, 1), *world);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("AdamW with groups equals its formula in float64: rates, decays, and a norm without what is frozen") {
  TestOptimizer ours(grouped_config(mixed_groups()));
  const auto first = ours.weights();
  auto expected = first;
  std::map<std::string, Moments> moments;
  for (const auto& [name, w] : first) moments[name] = {at::zeros_like(w), at::zeros_like(w)};
  at::manual_seed(3);
  for (int64_t step = 1; step <= 4; ++step) {
    FlatParams grads;
    double square = 0;
    for (const auto& [name, w] : first) {
      grads[name] = at::randn_like(w);
      if (!is_frozen(name)) square += grads[name].square().sum().item<double>();
    }
    grads["embedding.weight"][0] = NAN;  // of something frozen: without effect
    ours.set_grads(grads);
    const auto norm = ours.optimizer.grad_norm(ours.mesh.shard());
    CHECK(norm.item<double>() == Approx(std::sqrt(square)).epsilon(1e-13));
    const double rate = 0.02 / static_cast<double>(step), factor = std::min(1.0, 1.0 / (std::sqrt(square) + 1e-6));
    ours.optimizer.step(step, rate, norm);
    const auto t = static_cast<double>(step);
    for (auto& [name, w] : expected) {
      if (is_frozen(name)) continue;
      auto& [m, v] = moments[name];
      const auto g = grads[name] * factor;
      m = 0.8 * m + 0.2 * g;
      v = 0.9 * v + 0.1 * g * g;
      const double lr = rate * scale_of(name);
      w = w - lr * decay_of(name) * w -
          lr * (m / (1 - std::pow(0.8, t))) / ((v / (1 - std::pow(0.9, t))).sqrt() + 1e-6);
    }
    CHECK(ours.optimizer.grad_norm(ours.mesh.shard()).item<double>() == 0.0);
    for (const auto& unit : ours.runner.units()) CHECK(unit->grad.count_nonzero().item<int64_t>() == 0);
  }
  int64_t frozen = 0;
  for (const auto& [name, w] : ours.weights()) {
    INFO(name);
    frozen += is_frozen(name);
    if (is_frozen(name))
      CHECK(at::equal(w, first.at(name)));
    else
      CHECK((w - expected.at(name)).abs().max().item<double>() <= 1e-13 * w.abs().max().item<double>());
  }
  CHECK(frozen == 1 + 2 + 1 + 3);
}

TEST_CASE("moments are those of what is trained alone, and take no memory for the rest") {
  TestOptimizer all(grouped_config({})), ours(grouped_config(mixed_groups()));
  const auto numel_of = [](const Optimizer& optimizer, const std::string& kind) {
    int64_t numel = 0;
    for (const auto& tensor : optimizer.state())
      if (tensor.kind == kind) numel += tensor.flat.numel();
    return numel;
  };
  int64_t frozen = 0, trained = 0;
  for (const auto& [name, w] : all.weights()) (is_frozen(name) ? frozen : trained) += w.numel();
  CHECK(numel_of(ours.optimizer, "weight") == numel_of(all.optimizer, "weight"));
  for (const char* kind : {"exp_avg", "exp_avg_sq"}) {
    CHECK(numel_of(ours.optimizer, kind) <= numel_of(all.optimizer, kind) - frozen);
    CHECK(numel_of(ours.optimizer, kind) >= trained);
  }
  for (const auto& tensor : ours.optimizer.state()) {
    if (tensor.kind == "weight") continue;
    for (const auto& slice : tensor.slices) CHECK_FALSE(is_frozen(slice.name));
    for (const auto& param : tensor.params) CHECK_FALSE(is_frozen(param.name));
  }
}

TEST_CASE("groups that change nothing give the run without them, bit for bit") {
  TempFolder folder;
  auto plain = tiny_run(folder / "plain"), grouped = tiny_run(folder / "grouped");
  plain.optimizer.decay_norms = grouped.optimizer.decay_norms = false;
  grouped.optimizer.groups = {{.match = "blocks.*"}, {.match = "head.weight", .weight_decay = 0.1}};
  const auto expected = run_single(plain), ours = run_single(grouped);
  CHECK(ours.metrics == expected.metrics);
  for (const auto& [kind, params] : expected.state)
    for (const auto& [name, values] : params) CHECK(at::equal(values, ours.state.at(kind).at(name)));
}

TEST_CASE("a run with groups is the same on 4 ranks in every layout as on one, and keeps what is frozen") {
  TempFolder single;
  const auto config = grouped_run(ladder_run(single / "run", 4));
  const auto reference = run_single(config);
  auto start = config;
  start.run.folder = single / "start";
  const auto world = make_single_communicator();
  const auto first = whole_state(Trainer(resolve_run(start, 1), *world));
  for (const auto& [name, values] : reference.state.at("weight")) {
    INFO(name);
    CHECK(at::equal(values, first.at("weight").at(name)) == is_frozen(name));
    CHECK(reference.state.at("exp_avg").contains(name) == !is_frozen(name));
  }
  check_layouts(config, 4, reference);
}

TEST_CASE("what is frozen stays bit-equal in bf16 in each ZeRO stage, while the rest is trained") {
  const int64_t zero_stage = GENERATE(1, 2, 3);
  TempFolder folder;
  auto config = grouped_run(tiny_run(folder / "run"));
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.model.num_experts = 4;
  config.optimizer.lr = 0.1;
  config.parallel.zero_stage = zero_stage;
  config.parallel.expert = 2;
  run_ranks(4, [&](Communicator& world) {
    Trainer trainer(resolve_run(config, world.size()), world);
    FlatParams before;
    const auto each = [&](const auto& visit) {
      for (const auto& tensor : trainer.optimizer().state())
        for (const auto& slice : tensor.slices)
          if (tensor.kind == "weight")
            visit(fmt::format("{}:{}", slice.name, slice.begin), slice,
                  tensor.flat.narrow(0, slice.offset, slice.end - slice.begin));
    };
    each([&](const auto& key, const auto&, const auto& values) { before[key] = values.clone(); });
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
    each([&](const auto& key, const auto& slice, const auto& values) {
      ENSURE(at::equal(values, before.at(key)) == is_frozen(slice.name), "{} in ZeRO-{}", key, zero_stage);
    });
  });
}

TEST_CASE("a run with groups resumes bit for bit, on the same ranks and in another layout within 1e-12") {
  TempFolder folder;
  const auto saved = [&](const std::string& name) {
    auto config = grouped_run(saving_run(folder / name));
    config.model.num_experts = 4;
    return config;
  };
  const auto whole = saved("whole");
  run_to_the_end(2, whole);
  auto cut = saved("cut");
  cut.train.steps = 2;
  run_to_the_end(2, cut);
  cut.train.steps = 6;
  run_to_the_end(2, cut);
  CHECK(lines_of(cut.run.folder) == lines_of(whole.run.folder));
  check_same_shards(cut, whole, 6, 2);

  auto moved = saved("moved");
  moved.train.steps = 3;
  moved.parallel = {.replicate = 1, .expert = 2, .zero_stage = 1};
  run_to_the_end(4, moved);
  moved.train.steps = 6;
  moved.parallel = {};
  const auto ours = run_single(moved);
  CHECK(metrics_error(ours.metrics, metrics_of(whole.run.folder)) <= 1e-12);

  const auto weights = saved_names(step_folder(whole, 6), "weight"),
             moments = saved_names(step_folder(whole, 6), "exp_avg");
  CHECK(weights.size() == moments.size() + 7);
  CHECK(std::ranges::none_of(moments, is_frozen));
}

TEST_CASE("on resume rates and decays of groups may change, and what is frozen may not") {
  TempFolder folder;
  auto config = grouped_run(saving_run(folder / "run"));
  config.train.steps = 2;
  run_single(config);
  config.train.steps = 3;
  const auto good = config;
  config.optimizer.groups.pop_back();
  config.optimizer.groups[4].lr_scale = 2;
  config.optimizer.groups[5].weight_decay = {};
  CHECK(error_of(config) == "accepted");
  config = good;
  config.optimizer.groups.erase(config.optimizer.groups.begin());
  CHECK_THAT(error_of(config),
             Catch::Contains("was written with a different config") &&
                 Catch::Contains("optimizer.groups: embedding.weight was frozen and would be trained"));
  config = good;
  config.optimizer.groups.push_back({.match = "*.qkv.weight", .frozen = true});
  CHECK_THAT(error_of(config),
             Catch::Contains("optimizer.groups: blocks.0.attention.qkv.weight was trained and would be frozen now"));
}

TEST_CASE("a run that keeps the optimizer takes the moments of what it trains") {
  TempFolder folder;
  auto first = saving_run(folder / "first");
  const auto source = run_single(first).state;
  auto second = grouped_run(saving_run(folder / "second"));
  second.train.init_from = step_folder(first, 6);
  second.train.init_optimizer = InitOptimizer::keep;
  const auto world = make_single_communicator();
  const auto state = whole_state(Trainer(resolve_run(second, 1), *world));
  for (const auto& [name, values] : state.at("exp_avg_sq")) {
    CHECK_FALSE(is_frozen(name));
    CHECK(at::equal(values, source.at("exp_avg_sq").at(name)));
  }
  CHECK(state.at("exp_avg").size() + 7 == source.at("exp_avg").size());

  run_single(second);  // and one that trains more than its source did is refused
  auto third = saving_run(folder / "third");
  third.train.init_from = step_folder(second, 6);
  CHECK(error_of(third) == "accepted");
  third.run.folder = folder / "fourth";
  third.train.init_optimizer = InitOptimizer::keep;
  CHECK_THAT(error_of(third), Catch::Contains("train.init_optimizer: keep") &&
                                  Catch::Contains("exp_avg:embedding.weight: elements 0 to 1200 are missing"));
}
