#include "trainer/optimizer/optimizer.h"

#include "support/catch.h"
#include "support/optimizer_fixture.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// AdamW of one parameter, as its paper writes it. Source: Loshchilov and Hutter, arXiv 1711.05101.
struct ReferenceAdamW {
  at::Tensor w, m, v;
  void step(const at::Tensor& g, const OptimizerConfig& c, double lr, int64_t t) {
    m = c.beta1 * m + (1 - c.beta1) * g;
    v = c.beta2 * v + (1 - c.beta2) * g * g;
    const auto m_hat = m / (1 - std::pow(c.beta1, t)), v_hat = v / (1 - std::pow(c.beta2, t));
    w = w - lr * c.weight_decay * w - lr * m_hat / (v_hat.sqrt() + c.eps);
  }
};

}  // namespace

TEST_CASE("clipped AdamW equals the reference in float64") {
  const double clip_norm = GENERATE(0.0, 1.0, 1e6);
  TestOptimizer ours(
      {.lr = 0.01, .beta1 = 0.8, .beta2 = 0.9, .eps = 1e-6, .weight_decay = 0.3, .clip_norm = clip_norm});
  std::map<std::string, ReferenceAdamW> reference;
  for (const auto& [name, w] : ours.weights()) reference[name] = {w, at::zeros_like(w), at::zeros_like(w)};
  at::manual_seed(2);
  for (int64_t step = 1; step <= 4; ++step) {
    FlatParams grads;
    double square = 0;
    for (const auto& [name, w] : ours.weights()) {
      grads[name] = at::randn_like(w);
      square += grads[name].square().sum().item<double>();
    }
    ours.set_grads(grads);
    const auto norm = ours.optimizer.grad_norm(ours.mesh.shard());
    const double lr = 0.01 / static_cast<double>(step);
    CHECK(norm.item<double>() == Approx(std::sqrt(square)).epsilon(1e-13));
    ours.optimizer.step(step, lr, norm);
    const double factor = clip_norm > 0 ? std::min(1.0, clip_norm / (std::sqrt(square) + 1e-6)) : 1.0;
    for (auto& [name, adam] : reference) adam.step(grads[name] * factor, ours.config, lr, step);
  }
  for (const auto& [name, w] : ours.weights()) {
    INFO(name);
    CHECK((w - reference.at(name).w).abs().max().item<double>() <= 1e-13 * w.abs().max().item<double>());
  }
}

TEST_CASE("weight decay spares norms and the embedding where told to") {
  const bool norms = GENERATE(true, false), embeddings = GENERATE(true, false);
  TestOptimizer ours({.weight_decay = 0.5, .decay_norms = norms, .decay_embeddings = embeddings});
  const auto before = ours.weights();
  ours.optimizer.step(1, 0.1, at::zeros({}, at::kDouble));  // without gradients decay alone moves weights
  int64_t spared = 0;
  for (const auto& [name, w] : ours.weights()) {
    INFO(name);
    const bool is_norm = name.find("norm") != std::string::npos;
    const bool decays = is_norm ? norms : name == "embedding.weight" ? embeddings : true;
    CHECK(at::allclose(w, before.at(name) * (decays ? 0.95 : 1.0), 1e-15, 0));
    spared += !decays;
  }
  CHECK(spared == (norms ? 0 : 3 * 4 + 1) + (embeddings ? 0 : 1));
}

TEST_CASE("padding stays zero and outside the norm") {
  TestOptimizer ours({.eps = 1e-8});
  FlatParams ones;
  int64_t numel = 0;
  for (const auto& [name, w] : ours.weights()) ones[name] = at::ones_like(w), numel += w.numel();
  ours.set_grads(ones);
  CHECK(ours.optimizer.grad_norm(ours.mesh.shard()).item<double>() == Approx(std::sqrt(numel)).epsilon(1e-13));
  ours.optimizer.step(1, 0.1, at::ones({}, at::kDouble));
  CHECK(ours.optimizer.grad_norm(ours.mesh.shard()).item<double>() == 0.0);  // ready to be added to
  for (const auto& unit : ours.runner.units()) {
    auto padding = unit->shard.clone();
    for (const auto& slice : unit->slices()) padding.narrow(0, slice.offset, slice.end - slice.begin).zero_();
    CHECK(padding.count_nonzero().item<int64_t>() == 0);
  }
}
