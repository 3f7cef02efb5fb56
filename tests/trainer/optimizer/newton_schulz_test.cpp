// Newton-Schulz and Muon on single matrices, against torch.optim.Muon: make_muon_golden.py wrote what it does.
#include "trainer/optimizer/newton_schulz.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/safetensors.h"
#include "support/catch.h"
#include "trainer/optimizer/optimizer.h"

namespace {

using namespace olmoe;

const safetensors::File& golden() {
  static const safetensors::File file(OLMOE_SOURCE_DIR "/tests/trainer/optimizer/muon_golden.safetensors");
  return file;
}

at::Tensor golden(const std::string& name) {
  const auto& entry = golden().entry(name);
  const auto dtype = entry.dtype == safetensors::Dtype::f64   ? at::kDouble
                     : entry.dtype == safetensors::Dtype::f32 ? at::kFloat
                                                              : at::kBFloat16;
  auto* const bytes = const_cast<std::byte*>(golden().bytes(name).data());
  return at::from_blob(bytes, entry.shape, at::TensorOptions().dtype(dtype)).clone();
}

double relative_error(const at::Tensor& ours, const at::Tensor& reference) {
  return ((ours - reference).norm() / reference.norm()).item<double>();
}

NewtonSchulz default_rule() { return {}; }

}  // namespace

TEST_CASE("Muon equals torch.optim.Muon without its cast to bfloat16, step by step in float64") {
  size_t cases = 0;
  for (const auto& [name, text] : golden().metadata()) {
    if (name == "format") continue;
    ++cases;
    INFO(name << ": " << text);
    const auto options = nlohmann::json::parse(text);
    OptimizerConfig config{.kind = OptimizerKind::muon, .weight_decay = options.at("weight_decay"), .clip_norm = 0};
    config.muon.momentum = options.at("momentum");
    config.muon.nesterov = options.at("nesterov");
    config.muon.ns_steps = options.at("ns_steps");
    config.muon.ns_coefficients = options.at("ns_coefficients").get<std::vector<double>>();
    config.muon.lr_adjustment =
        options.at("adjust_lr_fn") == "match_rms_adamw" ? LrAdjustment::match_rms_adamw : LrAdjustment::original;
    const auto first = golden(name + ".weight.0");
    const auto world = make_single_communicator();
    at::Tensor slot;
    std::vector<std::unique_ptr<ShardedUnit>> units;
    units.push_back(
        std::make_unique<ShardedUnit>(std::vector<UnitParam>{{"w", first.sizes().vec(), first.sizes().vec(), 0, &slot}},
                                      *world, at::kDouble, at::kCPU));
    auto& unit = *units.front();
    unit.bind(PoolRange(unit.shard), PoolRange(unit.grad));
    const auto own = [&](const at::Tensor& flat) { return flat.narrow(0, 0, first.numel()).view(first.sizes()); };
    own(unit.shard).copy_(first);
    Optimizer optimizer(units, config);
    for (int64_t step = 1; step <= options.at("steps"); ++step) {
      own(unit.grad).copy_(golden(fmt::format("{}.grad.{}", name, step)));
      optimizer.step(step, options.at("lr"), optimizer.grad_norm(*world));
      const auto expected = golden(fmt::format("{}.weight.{}", name, step));
      CHECK(relative_error(own(unit.shard), expected) <= 1e-12);
      CHECK(relative_error(expected, first) >= 1e-3);
    }
  }
  CHECK(cases == 6);
}

TEST_CASE("in bfloat16 Newton-Schulz is what torch.optim.Muon's is, but for the order of sums") {
  const auto x = golden("bfloat16.x"), y = golden("bfloat16.y").to(at::kFloat);
  const auto ours = newton_schulz(x.to(at::kBFloat16).unsqueeze(0), default_rule()).squeeze(0);
  CHECK(ours.scalar_type() == at::kBFloat16);
  const double error = relative_error(ours.to(at::kFloat), y);
  CAPTURE(error);
  CHECK(error <= 0.02);  // of values with 8 bits, after five steps
  const auto exact = newton_schulz(x.to(at::kDouble).unsqueeze(0), default_rule()).squeeze(0);
  CHECK(relative_error(y.to(at::kDouble), exact) <= 0.05);
}

TEST_CASE("Newton-Schulz is the same function of singular values: U S V^T becomes U p(S) V^T") {
  const int64_t rows = GENERATE(5, 9, 14), cols = 9;
  at::manual_seed(4);
  const auto x = at::randn({2, rows, cols}, at::kDouble);
  const auto y = newton_schulz(x, default_rule());
  for (int64_t b = 0; b < 2; ++b) {
    const auto [u, s, vt] = at::linalg_svd(x[b], /*full_matrices=*/false);
    auto p = s / x[b].norm();
    for (int i = 0; i < 5; ++i) p = 3.4445 * p - 4.7750 * p.pow(3) + 2.0315 * p.pow(5);
    CHECK(relative_error(y[b], at::matmul(u * p, vt)) <= 1e-12);
    CHECK(p.min().item<double>() > 0.3);
    CHECK(p.max().item<double>() < 1.3);
  }
}

TEST_CASE("matrices of a batch are orthogonalised one by one, and zeros stay zeros") {
  at::manual_seed(5);
  const auto x = at::randn({3, 6, 10}, at::kDouble);
  x[1].zero_();
  const auto y = newton_schulz(x, default_rule());
  CHECK(y.is_contiguous());
  CHECK(y[1].count_nonzero().item<int64_t>() == 0);
  for (int64_t b : {0, 2}) {
    CHECK(relative_error(y[b], newton_schulz(x.narrow(0, b, 1), default_rule())[0]) <= 1e-13);
    CHECK(relative_error(y[b], newton_schulz(1e3 * x.narrow(0, b, 1), default_rule())[0]) <= 1e-12);
  }
  CHECK_THROWS_AS(newton_schulz(x[0], default_rule()), Error);
  CHECK_THROWS_AS(newton_schulz(x.transpose(1, 2), default_rule()), Error);
}
