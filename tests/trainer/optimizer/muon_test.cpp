// Muon in whole models: against formulas on one rank, every layout against one rank, what resumes, what is refused.
#include "trainer/optimizer/muon.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "support/catch.h"
#include "support/layout_ladder.h"
#include "support/optimizer_fixture.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/device/tensor_memory.h"
#include "trainer/planner/collective_bytes.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

bool ends_with_any(const std::string& name, std::initializer_list<const char*> ends) {
  return std::ranges::any_of(ends, [&](const char* end) { return name.ends_with(end); });
}

bool is_for_muon(const std::string& name) {
  return ends_with_any(name, {"qkv.weight", "output.weight", "gate_up.weight", "down.weight"});
}

Config muon_run(Config config) {
  config.optimizer.kind = OptimizerKind::muon;
  return config;
}

at::Tensor reference_iteration(const at::Tensor& u) {
  auto x = u / u.norm();
  for (int i = 0; i < 5; ++i) {
    const auto gram = at::matmul(x, x.t());
    x = 3.4445 * x + at::matmul(-4.7750 * gram + 2.0315 * at::matmul(gram, gram), x);
  }
  return x;
}

/// The rows of the matrices of a parameter of tiny_model(), which has 4 heads and 2 key/value heads of width 6.
std::vector<int64_t> matrix_rows(const std::string& name, QkvMatrices qkv) {
  if (name.ends_with("gate_up.weight")) return std::vector<int64_t>(5 * 2, 12);
  if (name.ends_with("down.weight")) return std::vector<int64_t>(5, 24);
  if (!name.ends_with("qkv.weight")) return {name.ends_with("router.weight") ? 5 : 24};
  if (qkv == QkvMatrices::fused) return {48};
  if (qkv == QkvMatrices::heads) return std::vector<int64_t>(8, 6);
  return {24, 12, 12};
}

/// What a step of `lr` subtracts of a weight for update u [numel], its matrices one by one.
at::Tensor reference_update(const std::string& name, const at::Tensor& u, const MuonConfig& muon, double lr) {
  const auto rows = matrix_rows(name, muon.qkv);
  const int64_t cols = name.ends_with("down.weight") ? 12 : 24;
  std::vector<at::Tensor> out;
  int64_t begin = 0;
  for (const int64_t of_matrix : rows) {
    const auto matrix = u.narrow(0, begin, of_matrix * cols).view({of_matrix, cols});
    // Of a tall matrix the iteration of its transpose, transposed, is the iteration over the other side: the same.
    const auto y = of_matrix > cols ? reference_iteration(matrix.t()).t() : reference_iteration(matrix);
    const double r = static_cast<double>(of_matrix), c = static_cast<double>(cols);
    const double factor = muon.lr_adjustment == LrAdjustment::original ? std::sqrt(std::max(1.0, r / c))
                                                                       : 0.2 * std::sqrt(std::max(r, c));
    out.push_back(lr * factor * y.flatten());
    begin += of_matrix * cols;
  }
  ENSURE(begin == u.numel(), "{} has {} elements, its matrices {}", name, u.numel(), begin);
  return at::cat(out);
}

void check_padding(const StageRunner& runner) {
  for (const auto& unit : runner.units()) {
    auto padding = unit->shard.clone();
    for (const auto& slice : unit->slices()) padding.narrow(0, slice.offset, slice.end - slice.begin).zero_();
    CHECK(padding.count_nonzero().item<int64_t>() == 0);
  }
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

std::string problems_of(const Config& config) { return fmt::format("{}", fmt::join(validate(config), "; ")); }

}  // namespace

TEST_CASE("Muon equals its formula in float64 for each kind of matrix, and the rest is AdamW's") {
  struct Choice {
    QkvMatrices qkv;
    LrAdjustment adjustment;
    bool nesterov, router;
    double clip_norm;
  };
  const auto choice = GENERATE(values<Choice>({{QkvMatrices::split, LrAdjustment::match_rms_adamw, true, false, 1.0},
                                               {QkvMatrices::fused, LrAdjustment::original, false, true, 0.0},
                                               {QkvMatrices::heads, LrAdjustment::original, true, true, 1e6}}));
  OptimizerConfig config{.kind = OptimizerKind::muon,
                         .beta1 = 0.8,
                         .beta2 = 0.9,
                         .eps = 1e-6,
                         .weight_decay = 0.3,
                         .clip_norm = choice.clip_norm,
                         .groups = {{.match = "blocks.1.moe.experts.*", .frozen = true},
                                    {.match = "blocks.0.attention.*", .lr_scale = 3},
                                    {.match = "blocks.2.moe.experts.down.weight", .weight_decay = 0.9}}};
  config.muon = {.momentum = 0.7, .nesterov = choice.nesterov, .lr_adjustment = choice.adjustment, .lr_scale = 2};
  config.muon.weight_decay = 0.1;
  config.muon.qkv = choice.qkv;
  config.muon.router = choice.router;
  TestOptimizer ours(config);
  const auto first = ours.weights();
  auto expected = first;
  std::map<std::string, at::Tensor> m, v;
  for (const auto& [name, w] : first) m[name] = at::zeros_like(w), v[name] = at::zeros_like(w);
  const auto is_frozen = [](const std::string& name) { return name.starts_with("blocks.1.moe.experts."); };
  at::manual_seed(3);
  for (int64_t step = 1; step <= 3; ++step) {
    FlatParams grads;
    double square = 0;
    for (const auto& [name, w] : first) {
      grads[name] = at::randn_like(w);
      if (!is_frozen(name)) square += grads[name].square().sum().item<double>();
    }
    ours.set_grads(grads);
    const auto norm = ours.optimizer.grad_norm(ours.mesh.shard());
    CHECK(norm.item<double>() == Approx(std::sqrt(square)).epsilon(1e-13));
    const double rate = 0.02 / static_cast<double>(step);
    ours.optimizer.step(step, rate, norm);
    const double factor = choice.clip_norm > 0 ? std::min(1.0, choice.clip_norm / (std::sqrt(square) + 1e-6)) : 1.0;
    for (auto& [name, w] : expected) {
      if (is_frozen(name)) continue;
      const auto g = grads[name] * factor;
      const double group_rate = rate * (name.starts_with("blocks.0.attention.") ? 3 : 1);
      if (is_for_muon(name) || (choice.router && name.ends_with("router.weight"))) {
        m[name] = 0.7 * m[name] + 0.3 * g;
        const auto u = choice.nesterov ? 0.3 * g + 0.7 * m[name] : m[name];
        const double decay = name == "blocks.2.moe.experts.down.weight" ? 0.9 : 0.1;
        w = w - 2 * group_rate * decay * w - reference_update(name, u, config.muon, 2 * group_rate);
      } else {
        m[name] = 0.8 * m[name] + 0.2 * g;
        v[name] = 0.9 * v[name] + 0.1 * g * g;
        w = w - group_rate * 0.3 * w -
            group_rate * (m[name] / (1 - std::pow(0.8, step))) / ((v[name] / (1 - std::pow(0.9, step))).sqrt() + 1e-6);
      }
    }
    for (const auto& unit : ours.runner.units()) CHECK(unit->grad.count_nonzero().item<int64_t>() == 0);
  }
  for (const auto& [name, w] : ours.weights()) {
    INFO(name);
    if (is_frozen(name))
      CHECK(at::equal(w, first.at(name)));
    else
      CHECK((w - expected.at(name)).abs().max().item<double>() <= 1e-12 * w.abs().max().item<double>());
  }
  check_padding(ours.runner);
}

TEST_CASE("where the gradient norm is not finite Muon changes no weight and no momentum, not even the sign of a zero") {
  TestOptimizer ours({.kind = OptimizerKind::muon});
  FlatParams grads;
  at::manual_seed(6);
  for (const auto& [name, w] : ours.weights()) grads[name] = at::randn_like(w);
  ours.set_grads(grads);
  ours.optimizer.step(1, 0.01, ours.optimizer.grad_norm(ours.mesh.shard()));
  for (const auto& tensor : ours.optimizer.state())
    for (const auto& slice : tensor.slices)
      if (is_for_muon(slice.name)) at::Tensor(tensor.flat).narrow(0, slice.offset, 1).fill_(-0.0);
  std::vector<at::Tensor> before;
  for (const auto& tensor : ours.optimizer.state()) before.push_back(tensor.flat.clone());
  grads["blocks.1.attention.output.weight"][7] = GENERATE(double(NAN), double(INFINITY));
  ours.set_grads(grads);
  ours.optimizer.step(2, 0.01, ours.optimizer.grad_norm(ours.mesh.shard()));
  const auto after = ours.optimizer.state();
  for (size_t i = 0; i < after.size(); ++i)
    CHECK(std::memcmp(after[i].flat.const_data_ptr(), before[i].const_data_ptr(), before[i].nbytes()) == 0);
  for (const auto& unit : ours.runner.units()) CHECK(unit->grad.count_nonzero().item<int64_t>() == 0);
}

TEST_CASE("a run with Muon is the same on 2, 4 and 6 ranks in every layout as on one") {
  const int ranks = GENERATE(2, 4, 6);
  TempFolder single;
  auto config = muon_run(ladder_run(single / "run", ranks));
  config.optimizer.groups = {{.match = "blocks.0.moe.experts.gate_up.weight", .frozen = true},
                             {.match = "blocks.1.attention.*", .lr_scale = 0.5}};
  config.optimizer.muon.router = ranks == 6;
  config.optimizer.muon.qkv = ranks == 2 ? QkvMatrices::heads : QkvMatrices::split;
  const auto reference = run_single(config);
  CHECK(reference.state.at("momentum").size() == (ranks == 6 ? 9 : 7));
  for (const auto& layout : layouts_of(ranks)) {
    INFO(describe(layout));
    TempFolder folder;
    auto ours = config;
    ours.run.folder = folder / "run";
    CHECK(error_on_threads(ours, layout, reference) <= 1e-12);
  }
}

TEST_CASE("a run with Muon resumes bit for bit, on the same ranks and in another layout within 1e-12") {
  const auto dtype = GENERATE(ComputeDtype::float64, ComputeDtype::bfloat16);
  TempFolder folder;
  const auto saved = [&](const std::string& name) {
    auto config = muon_run(saving_run(folder / name));
    config.model.num_experts = 4;
    config.train.compute_dtype = dtype;
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
  if (dtype != ComputeDtype::float64) return;

  auto moved = saved("moved");
  moved.train.steps = 3;
  moved.parallel = {.replicate = 1, .expert = 2, .zero_stage = 1};
  run_to_the_end(4, moved);
  moved.train.steps = 6;
  moved.parallel = {};
  const auto ours = run_single(moved);
  CHECK(metrics_error(ours.metrics, metrics_of(whole.run.folder)) <= 1e-12);
}

TEST_CASE("on resume Muon's constants may change, and what it trains may not") {
  TempFolder folder;
  auto config = muon_run(saving_run(folder / "run"));
  config.train.steps = 2;
  run_single(config);
  config.train.steps = 3;
  const auto good = config;
  config.optimizer.muon = {.momentum = 0.9, .nesterov = false, .lr_scale = 2};
  config.optimizer.muon.qkv = QkvMatrices::heads;
  CHECK(error_of(config) == "accepted");
  config = good;
  config.optimizer.kind = OptimizerKind::adamw;
  CHECK_THAT(error_of(config), Catch::Contains("optimizer.kind: blocks.0.attention.qkv.weight was trained by Muon and "
                                               "would be trained by AdamW now"));
  config = good;
  config.optimizer.muon.router = true;
  CHECK_THAT(error_of(config), Catch::Contains("optimizer.muon.router: blocks.0.moe.router.weight was trained by "
                                               "AdamW and would be trained by Muon now"));
}

TEST_CASE("a run that keeps the optimizer takes the momentum, and is refused where there is none") {
  TempFolder folder;
  const auto first = muon_run(saving_run(folder / "first"));
  const auto source = run_single(first).state;
  auto second = muon_run(saving_run(folder / "second"));
  second.train.init_from = step_folder(first, 6);
  second.train.init_optimizer = InitOptimizer::keep;
  const auto world = make_single_communicator();
  const auto state = whole_state(Trainer(resolve_run(second, 1), *world));
  for (const auto& [name, values] : state.at("momentum")) CHECK(at::equal(values, source.at("momentum").at(name)));
  CHECK(state.at("momentum").size() == 3 * 4);

  auto third = second;
  third.run.folder = folder / "third";
  third.optimizer.kind = OptimizerKind::adamw;
  CHECK_THAT(error_of(third),
             Catch::Contains("train.init_optimizer: keep") && Catch::Contains("exp_avg:blocks.0.attention.qkv.weight"));
}

TEST_CASE("what Muon cannot do is refused by key") {
  auto config = muon_run(tiny_run("unused"));
  REQUIRE(problems_of(config).empty());
  config.optimizer.muon.ns_coefficients = {1, 2};
  CHECK_THAT(problems_of(config), Catch::Contains("optimizer.muon.ns_coefficients: 2 numbers, want a, b and c"));
  config.optimizer.muon.ns_coefficients = {1, NAN, 2};
  CHECK_THAT(problems_of(config), Catch::Contains("optimizer.muon.ns_coefficients"));
  config = muon_run(tiny_run("unused"));
  config.optimizer.muon.ns_steps = 0;
  CHECK_THAT(problems_of(config), Catch::Contains("optimizer.muon.ns_steps"));
  config = muon_run(tiny_run("unused"));
  config.optimizer.muon.momentum = 1;
  CHECK_THAT(problems_of(config), Catch::Contains("optimizer.muon.momentum"));
  config.train.compute_dtype = ComputeDtype::bfloat16;
  config.optimizer.muon.momentum = 1 - 1e-9;
  CHECK_THAT(problems_of(config), Catch::Contains("optimizer.muon.momentum: 0.999999999 rounds to 1 in fp32"));
  config = muon_run(tiny_run("unused"));
  config.optimizer.groups = {{.match = "blocks.*", .frozen = true}};
  CHECK_THAT(problems_of(config), Catch::Contains("optimizer.kind: muon has nothing to train"));
  config = muon_run(tiny_run("unused"));
  config.train.device = DeviceKind::cuda;
  config.train.cuda_graph = true;
  CHECK_THAT(problems_of(config), Catch::Contains("train.cuda_graph: not with optimizer.kind=muon"));
}

TEST_CASE("the plan of a step with Muon is what communicators count, moments what is allocated") {
  const auto layout = GENERATE(Layout{1, 4, 1, 3}, Layout{1, 4, 2, 2}, Layout{2, 2, 1, 1}, Layout{1, 6, 3, 3});
  INFO(describe(layout));
  TempFolder folder;
  auto config = muon_run(tiny_run(folder / "run"));
  config.model.num_experts = 6;
  config.model.share_experts = GENERATE(false, true);
  config.train.compute_dtype = ComputeDtype::bfloat16;
  apply(layout, config);
  const auto ranks = static_cast<size_t>(layout.replicate * layout.shard);
  std::vector<int64_t> sent(ranks), moments(ranks);
  run_ranks(static_cast<int>(ranks), [&](Communicator& world) {
    Trainer trainer(resolve_run(config, world.size()), world);
    ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
    auto& mesh = trainer.mesh();
    const auto rank = static_cast<size_t>(world.rank());
    for (auto* group : {&mesh.shard(), &mesh.expert_shard()})
      sent[rank] += group->diagnostics().traffic().all_to_all.bytes;
    for (const auto& tensor : trainer.optimizer().state())
      if (tensor.kind != "weight") moments[rank] += static_cast<int64_t>(tensor.flat.nbytes());
  });
  const MeshShape mesh{static_cast<int>(layout.replicate), static_cast<int>(layout.shard),
                       static_cast<int>(layout.expert)};
  CHECK(std::ranges::max(sent) > 0);
  CHECK(std::ranges::max(sent) == config.train.steps * count_collective_bytes(config, mesh, {}).matrices);
  CHECK(std::ranges::max(moments) == plan_memory(config, mesh).moments);
  config.optimizer.kind = OptimizerKind::adamw;
  CHECK(count_collective_bytes(config, mesh, {}).matrices == 0);
  CHECK(std::ranges::max(moments) < plan_memory(config, mesh).moments);
}

TEST_CASE("an update by Muon allocates what the plan says") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
  auto model = tiny_model();
  model.d_model = 192;
  model.num_experts = 8;
  model.expert_width = 128;
  model.num_layers = 2;
  const OptimizerConfig config{.kind = OptimizerKind::muon};
  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {});
  StageRunner runner(make_stages(model, mesh), mesh, runner_options(dtype));
  Optimizer optimizer(runner.units(), config);
  at::manual_seed(8);
  for (const auto& unit : runner.units()) unit->grad.normal_();
  const auto norm = optimizer.grad_norm(mesh.shard());
  tensor_memory::count_host();
  optimizer.step(1, 0.01, norm);  // what a first product allocates for good
  const int64_t before = tensor_memory::bytes(at::kCPU).value();
  tensor_memory::reset_peak(at::kCPU);
  optimizer.step(2, 0.01, norm);
  const auto peak = static_cast<double>(tensor_memory::peak_bytes(at::kCPU).value() - before);
  const int64_t value = static_cast<int64_t>(c10::elementSize(dtype));
  const auto planned =
      static_cast<double>(plan_muon(config, ModelOutline(model), {}).temporaries(value, std::max<int64_t>(value, 4)));
  INFO(fmt::format("{} bytes a value: {} planned, {} at the peak", value, planned, peak));
  CHECK(peak <= 1.02 * planned);
  CHECK(peak >= 0.98 * planned);
}
