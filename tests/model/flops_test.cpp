// FLOPs of a token by kind, against a calculation by hand. Their sums: config_test.cpp.
#include "model/flops.h"

#include "support/catch.h"

namespace {

using namespace olmoe;

constexpr int64_t kSequence = 4096;

ModelConfig dense_twin() {
  ModelConfig config;
  config.ffn = Ffn::dense;
  return config;
}

}  // namespace

TEST_CASE("forward FLOPs by kind, of OLMoE-1B-7B") {
  const auto flops = count_forward_flops(ModelConfig{}, kSequence);
  // 16 blocks; d 2048; 8 experts of three GEMMs of 2048 x 1024; q, k, v and output; 64 experts; half of 4096 keys,
  // for scores and values; 50,304 words. Two FLOPs each.
  CHECK(flops.ffn == 16. * 8 * 3 * 2048 * 1024 * 2);
  CHECK(flops.projections == 16. * 4 * 2048 * 2048 * 2);
  CHECK(flops.router == 16. * 64 * 2048 * 2);
  CHECK(flops.attention == 16. * 2 * 2048 * 2048 * 2);
  CHECK(flops.head == 50304. * 2048 * 2);
  CHECK(flops.ffn / flops.total() == Approx(0.61).margin(0.005));
  CHECK(flops.projections / flops.total() == Approx(0.20).margin(0.005));
  CHECK(flops.attention / flops.total() == Approx(0.10).margin(0.005));
  CHECK(flops.head / flops.total() == Approx(0.08).margin(0.005));
}

TEST_CASE("a gate and a tied head are in the FLOPs of a token") {
  auto config = dense_twin();
  const double before = count_forward_flops(config, kSequence).projections;
  config.attention_gate = true;
  CHECK(count_forward_flops(config, kSequence).projections - before == 16. * 2048 * 2048 * 2);
  config.tie_embeddings = true;
  const double norm_flops = 6. * (16 * 4 + 1) * 2048;
  CHECK(3 * count_forward_flops(config, kSequence).total() + norm_flops ==
        Approx(count_flops(config, kSequence).causal).epsilon(1e-12));
}

TEST_CASE("the kinds add up to all FLOPs except those of norm weights") {
  for (const auto& config : {ModelConfig{}, dense_twin()}) {
    // Two norms of a block, of q and of k, and the last one.
    const double norm_flops = 6. * (16 * 4 + 1) * 2048;
    CHECK(3 * count_forward_flops(config, kSequence).total() + norm_flops ==
          Approx(count_flops(config, kSequence).causal).epsilon(1e-12));
  }
}
