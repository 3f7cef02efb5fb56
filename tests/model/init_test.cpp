#include "model/init.h"

#include "support/catch.h"
#include "support/model_fixtures.h"

namespace {

using namespace olmoe;

constexpr int64_t kCount = 200'000;
const std::string kName = "blocks.0.moe.experts.down.weight";

at::Tensor values(const ParamSource& source, const std::string& name, int64_t begin, int64_t count,
                  at::ScalarType dtype = at::kDouble) {
  auto out = at::full({count}, std::nan(""), dtype);
  source(name, begin, out);
  return out;
}

}  // namespace

TEST_CASE("an initial weight depends on seed, name and index alone") {
  const ModelConfig model;
  const auto whole = values(random_init(model, 1), kName, 0, kCount);
  const auto source = random_init(model, 1);
  for (int64_t begin : {0, 1, 777, 16'384, 150'001}) {  // independent of earlier reads and their sizes
    const int64_t count = std::min<int64_t>(33'333, kCount - begin);
    CHECK(at::equal(values(source, kName, begin, count), whole.narrow(0, begin, count)));
  }
  CHECK(at::equal(values(source, kName, 0, kCount, at::kFloat), whole.to(at::kFloat)));
  auto shares_with = [&](const at::Tensor& other) { return (other == whole).sum().item<int64_t>(); };
  CHECK(shares_with(values(random_init(model, 2), kName, 0, kCount)) == 0);
  CHECK(shares_with(values(source, "blocks.1.moe.experts.down.weight", 0, kCount)) == 0);
  CHECK(shares_with(values(source, kName, 1, kCount)) == 0);
}

TEST_CASE("values are a normal of init_std, truncated at init_cutoff deviations") {
  ModelConfig model;
  const auto x = values(random_init(model, 1), kName, 0, kCount) / model.init_std;
  CHECK(x.abs().max().item<double>() <= model.init_cutoff);
  CHECK(x.abs().max().item<double>() > 2.99);
  // Of a standard normal cut at 3: deviation 0.98658, 68.454 % within 1. Bounds: five standard
  // errors.
  CHECK(std::abs(x.mean().item<double>()) < 5 / std::sqrt(kCount));
  CHECK(x.std().item<double>() == Approx(0.98658).margin(5 / std::sqrt(2.0 * kCount)));
  const double within = (x.abs() < 1).to(at::kDouble).mean().item<double>();
  CHECK(within == Approx(0.68454).margin(5 * std::sqrt(0.68 * 0.32 / kCount)));
  model.init_cutoff = 1.5;
  CHECK(values(random_init(model, 1), kName, 0, kCount).abs().max().item<double>() <= 1.5 * model.init_std);
}

TEST_CASE("without a cutoff initial weights are plain normals") {
  ModelConfig model;
  model.init_cutoff = std::nullopt;
  const auto x = values(random_init(model, 1), kName, 0, kCount) / model.init_std;
  CHECK(x.abs().max().item<double>() > 3.5);  // of 200,000 some 93 are expected beyond
  CHECK(std::abs(x.mean().item<double>()) < 5 / std::sqrt(kCount));
  CHECK(x.std().item<double>() == Approx(1).margin(5 / std::sqrt(2.0 * kCount)));
  const double within = (x.abs() < 1).to(at::kDouble).mean().item<double>();
  CHECK(within == Approx(0.68269).margin(5 * std::sqrt(0.68 * 0.32 / kCount)));
}

TEST_CASE("each init gives a parameter the deviation of its place in the model") {
  auto model = test::tiny_model();
  model.dense_layers = 1;
  model.num_shared_experts = 1;
  model.attention_gate = true;
  const auto plain = random_init(model, 1);
  /// Of a parameter, its deviation over init_std: all draw the same normals.
  const auto factor = [&](InitMethod init, const std::string& name) {
    auto other = model;
    other.init = init;
    const auto ratio = values(random_init(other, 1), name, 3, 100) / values(plain, name, 3, 100);
    CHECK((ratio / ratio[0] - 1).abs().max().item<double>() < 1e-12);
    return ratio[0].item<double>() * (init == InitMethod::mitchell ? model.init_std : 1);
  };
  const double d = 24, f = 12, ffn = 2 * 12 + 12, deep = 1 / std::sqrt(6.);  // three blocks
  struct Row {
    std::string name;
    double mitchell, megatron, full_megatron;
  };
  const std::vector<Row> rows{
      {"embedding.weight", 1 / std::sqrt(d), 1, 1},
      {"blocks.0.attention.qkv.weight", 1 / std::sqrt(d), 1, 1},
      {"blocks.2.attention.gate.weight", 1 / std::sqrt(d), 1, 1},
      {"blocks.0.attention.output.weight", 1 / std::sqrt(2 * 1 * d), deep, deep},
      {"blocks.2.attention.output.weight", 1 / std::sqrt(2 * 3 * d), deep, deep},
      {"blocks.0.ffn.gate_up.weight", 1 / std::sqrt(d), 1, 1},
      {"blocks.0.ffn.down.weight", 1 / std::sqrt(2 * 1 * ffn), deep, deep},
      {"blocks.1.moe.router.weight", 1 / std::sqrt(d), 1, 1},
      {"blocks.1.moe.experts.gate_up.weight", 1 / std::sqrt(d), 1, 1},
      {"blocks.1.moe.experts.down.weight", 1 / std::sqrt(2 * 2 * f), deep, deep},
      {"blocks.1.moe.shared.down.weight", 1 / std::sqrt(2 * 2 * f), deep, deep},
      {"head.weight", 1 / std::sqrt(d), 1, 1 / std::sqrt(d) / model.init_std},
  };
  for (const auto& [name, mitchell, megatron, full_megatron] : rows) {
    INFO(name);
    CHECK(factor(InitMethod::mitchell, name) == Approx(mitchell).epsilon(1e-12));
    CHECK(factor(InitMethod::megatron, name) == Approx(megatron).epsilon(1e-12));
    CHECK(factor(InitMethod::full_megatron, name) == Approx(full_megatron).epsilon(1e-12));
  }
}

TEST_CASE("biases of norms start at zero") {
  auto model = test::tiny_model();
  model.norm = NormKind::layer;
  model.norm_affine = NormAffine::weight_and_bias;
  CHECK(values(random_init(model, 1), "blocks.1.ffn_norm.bias", 0, 24).count_nonzero().item<int64_t>() == 0);
  CHECK(at::equal(values(random_init(model, 1), "blocks.1.ffn_norm.weight", 0, 24), at::ones({24}, at::kDouble)));
}

TEST_CASE("norm weights start at one, no others do") {
  const auto model = test::tiny_model();
  const auto source = random_init(model, 1);
  int64_t norms = 0;
  for (const auto& params : list_params(model))
    for (const auto& param : params) {
      INFO(param.name);
      const auto x = values(source, param.name, 0, at::empty(param.global_shape).numel());
      const bool norm = param.global_shape.size() == 1;
      CHECK(at::equal(x, at::ones_like(x)) == norm);
      norms += norm;
    }
  CHECK(norms == 3 * 4 + 1);
}

TEST_CASE("initial values go to contiguous tensors only") {
  auto column = at::zeros({4, 2}).select(1, 0);
  CHECK_THROWS_AS(random_init(ModelConfig{}, 1)(kName, 0, column), Error);
}
