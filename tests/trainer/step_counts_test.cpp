// What one rank's whole optimizer step asks of the machine: allocations, clears, collective calls, host waits.
#include <fmt/ranges.h>

#include <set>

#include "model/init.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/asked_of_libtorch_registration.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "trainer/device_step.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

using Calls = std::map<std::string, int64_t>;
constexpr int kRanks = 2;  // a unit that is whole on its rank has no full gradients of its own
constexpr int64_t kLength = 9, kWarmUp = 2, kCounted = 2;

struct Case {
  int zero_stage = 3;
  at::ScalarType dtype = at::kBFloat16;
  int64_t accumulation_steps = 2;
  int64_t layers = 2;
  int64_t idle_ranks = 0;  ///< the last so many have batches of no sequences
};

/// Of one rank in one step.
struct StepCounts {
  int64_t allocations = 0;
  int64_t cleared_grad_bytes = 0;  ///< in the buffers of full gradients
  int64_t other_clears = 0;
  Calls operators, collectives;  ///< "aten::mm", "shard.all_gather"
  bool operator==(const StepCounts&) const = default;
};

/// What does not depend on the step, of one rank.
struct Sizes {
  int64_t added_bytes = 0, stored_bytes = 0;  ///< of full gradients, by what the first backward does; padding is added
  int64_t slices = 0;
};

struct Outcome {
  Sizes sizes;
  std::vector<StepCounts> steps;  ///< after the warm-up
};

/// Every token goes to every expert: none is without rows, whatever was learned.
ModelConfig model_of(const Case& c) {
  auto model = tiny_model();
  model.num_layers = c.layers;
  model.top_k = model.num_experts;
  return model;
}

Calls calls_of(DeviceMesh& mesh) {
  Calls calls;
  for (auto [axis, group] :
       std::initializer_list<std::pair<const char*, Communicator*>>{{"world", &mesh.world()},
                                                                    {"replicate", &mesh.replicate()},
                                                                    {"shard", &mesh.shard()},
                                                                    {"expert", &mesh.expert()},
                                                                    {"expert_shard", &mesh.expert_shard()}}) {
    const auto& traffic = group->diagnostics().traffic();
    const auto put = [&](const char* kind, const Traffic::Count& count) {
      calls[fmt::format("{}.{}", axis, kind)] = count.calls;
    };
    put("all_gather", traffic.all_gather);
    put("reduce_scatter", traffic.reduce_scatter);
    put("all_reduce", traffic.all_reduce);
    put("all_to_all", traffic.all_to_all);
    put("broadcast", traffic.broadcast);
    put("barrier", traffic.barrier);
  }
  return calls;
}

/// a - b by key; keys without a difference are left out.
Calls minus(Calls a, const Calls& b) {
  for (const auto& [key, count] : b) a[key] -= count;
  std::erase_if(a, [](const auto& item) { return item.second == 0; });
  return a;
}

Sizes sizes_of(const StageRunner& runner) {
  Sizes sizes;
  for (const auto& unit : runner.units()) {
    ENSURE(unit->shard.numel() < unit->flat_numel(), "a unit is whole on its rank: it neither clears nor stores");
    int64_t stored = 0;
    for (const auto& param : unit->params())
      if (param.to_store != nullptr) stored += param.slot->numel();
    sizes.stored_bytes += stored * unit->grad.element_size();
    sizes.added_bytes += (unit->flat_numel() - stored) * unit->grad.element_size();
    sizes.slices += std::ssize(unit->slices());
  }
  return sizes;
}

std::set<const void*> full_grad_buffers(const StageRunner& runner) {
  std::set<const void*> storages;
  for (const auto& unit : runner.units())
    for (const auto& param : unit->params()) storages.insert(param.slot->grad().storage().data());
  return storages;
}

Batch batch_of_accumulation_step(const ModelConfig& model, int64_t accumulation_step, bool idle) {
  const auto ids = at::arange(kLength, at::kLong) * (accumulation_step + 3) % model.vocab_size;
  return batch_of(ids.expand({idle ? 0 : 1, kLength}).contiguous());
}

/// Steps of one rank, whose batches are made before.
Outcome count_steps(const Case& c, Communicator& world) {
  AskedOfLibTorch asked;  // from the start: memory that it saw no one take would be freed
  const auto model = model_of(c);
  DeviceMesh mesh(world, {.replicate = 1, .shard = kRanks, .expert = 1});
  auto options = runner_options(c.dtype, c.zero_stage == 3 ? Residency::pooled : Residency::resident);
  options.grads = c.zero_stage == 1 ? Residency::resident : Residency::pooled;
  StageRunner runner(make_stages(model, mesh), mesh, options);
  fill_weights(runner.units(), random_init(model, 7));
  const OptimizerConfig config;
  Optimizer optimizer(runner.units(), config);
  std::vector<Batch> batches;
  for (int64_t accumulation_step = 0; accumulation_step < c.accumulation_steps; ++accumulation_step)
    batches.push_back(batch_of_accumulation_step(model, accumulation_step, world.rank() >= kRanks - c.idle_ranks));
  DeviceStep step(runner, optimizer, mesh,
                  {.global_batch = c.accumulation_steps * kRanks, .micro_batch = 1, .ranks = kRanks}, nullptr);
  Outcome out{sizes_of(runner), {}};
  const auto grads = full_grad_buffers(runner);
  for (int64_t s = 1; s <= kWarmUp + kCounted; ++s) {
    size_t accumulation_step = 0;
    const auto calls_before = calls_of(mesh);
    asked.forget();
    step.run([&] { return batches.at(accumulation_step++); }, s, 1e-3);
    StepCounts counts{asked.allocations(), 0, 0, asked.operators(), minus(calls_of(mesh), calls_before)};
    for (const auto& clear : asked.clears())
      if (grads.contains(clear.storage))
        counts.cleared_grad_bytes += clear.bytes;
      else if (clear.zeroes)
        ++counts.other_clears;
    if (s > kWarmUp) out.steps.push_back(counts);
  }
  return out;
}

std::vector<Outcome> count_steps(const Case& c) {
  std::vector<Outcome> outcomes(kRanks);
  run_ranks(kRanks, [&](Communicator& world) { outcomes[static_cast<size_t>(world.rank())] = count_steps(c, world); });
  return outcomes;
}

}  // namespace

TEST_CASE("allocations and operators of a step are constant, and linear in its micro-batches") {
  const auto zero_stage = GENERATE(3, 2, 1);
  const auto dtype = GENERATE(at::kBFloat16, at::kFloat);
  CAPTURE(zero_stage, dtype);
  std::vector<std::vector<Outcome>> of_accumulation_steps;
  for (const int64_t accumulation_steps : {2, 3, 4})
    of_accumulation_steps.push_back(count_steps({zero_stage, dtype, accumulation_steps}));
  for (size_t rank = 0; rank < kRanks; ++rank) {
    INFO("rank " << rank);
    const auto counts = [&](size_t i) -> const StepCounts& { return of_accumulation_steps[i][rank].steps.back(); };
    for (const auto& outcomes : of_accumulation_steps) {
      const auto& steps = outcomes[rank].steps;
      CHECK(minus(steps[1].operators, steps[0].operators) == Calls{});
      CHECK(steps[1] == steps[0]);
    }
    const auto grows_evenly = [&](auto StepCounts::*what) {
      return counts(1).*what - counts(0).*what == counts(2).*what - counts(1).*what;
    };
    CHECK(counts(1).allocations > counts(0).allocations);
    CHECK(grows_evenly(&StepCounts::allocations));
    CHECK(grows_evenly(&StepCounts::cleared_grad_bytes));
    CHECK(grows_evenly(&StepCounts::other_clears));
    const auto more = [&](size_t i, Calls StepCounts::*what) { return minus(counts(i).*what, counts(i - 1).*what); };
    CHECK(more(2, &StepCounts::operators) == more(1, &StepCounts::operators));
    CHECK(more(2, &StepCounts::collectives) == more(1, &StepCounts::collectives));
  }
}

// Whoever changes these numbers has made a step take memory, or clear it, more or less often. In float32: how LibTorch
// multiplies bfloat16 depends on the CPU.
TEST_CASE(
    "tensors that a step allocates, and which of them it clears; of older memory it clears full gradients alone") {
  const auto zero_stage = GENERATE(3, 2, 1);
  const int64_t accumulation_steps = GENERATE(1, 3), layers = GENERATE(2, 3);
  CAPTURE(zero_stage, accumulation_steps, layers);
  const int64_t units = 2 * layers + 2;  // embedding and head have one, a block has two
  for (const auto& outcome : count_steps({zero_stage, at::kFloat, accumulation_steps, layers})) {
    const auto& counts = outcome.steps.back();
    CHECK(counts.allocations ==
          32 + units + accumulation_steps * (8 + 86 * layers));        // a unit: the sum of its gradients' squares
    CHECK(counts.other_clears == counts.operators.at("aten::zeros"));  // of tensors just made
    CHECK(counts.other_clears == 6 + accumulation_steps * 4 * layers);
  }
}

TEST_CASE("a step zeroes full gradients that are added to, and not those of experts, which are stored") {
  const auto zero_stage = GENERATE(3, 2, 1);
  const auto dtype = GENERATE(at::kBFloat16, at::kFloat);
  const int64_t accumulation_steps = GENERATE(1, 2, 3), idle_ranks = GENERATE(0, 1);
  CAPTURE(zero_stage, dtype, accumulation_steps, idle_ranks);
  const int64_t claims = zero_stage == 1 ? 1 : accumulation_steps;  // ZeRO-1 reduces once a step
  const auto outcomes = count_steps({zero_stage, dtype, accumulation_steps, 2, idle_ranks});
  for (int rank = 0; rank < kRanks; ++rank) {
    INFO("rank " << rank);
    const auto& [sizes, steps] = outcomes[static_cast<size_t>(rank)];
    REQUIRE(sizes.stored_bytes > 0);
    // Experts without rows are written as zeros where they are stored: all experts of a rank without tokens.
    const int64_t without_rows = rank >= kRanks - idle_ranks ? sizes.stored_bytes : 0;
    CHECK(steps.back().cleared_grad_bytes == claims * (sizes.added_bytes + without_rows));
  }
}

TEST_CASE("collective calls of a step, with each ZeRO stage") {
  const auto zero_stage = GENERATE(3, 2, 1);
  const int64_t accumulation_steps = GENERATE(1, 3), layers = GENERATE(2, 3);
  CAPTURE(zero_stage, accumulation_steps, layers);
  const int64_t dense = layers + 2, reductions = zero_stage == 1 ? 1 : accumulation_steps;
  const bool kept = zero_stage < 3;  // else for the forward and again for the backward, but the last stage
  const Calls expected{{"shard.all_gather", kept ? dense : accumulation_steps * (2 * dense - 1)},
                       {"expert_shard.all_gather", kept ? layers : accumulation_steps * 2 * layers},
                       {"shard.reduce_scatter", reductions * dense},
                       {"expert_shard.reduce_scatter", reductions * layers},
                       {"replicate.all_reduce", dense + layers},
                       {"shard.all_reduce", 1},     // the gradient norm
                       {"replicate.broadcast", 1},  // the same
                       {"world.all_reduce", 4}};    // target tokens, losses, counts, dropped assignments
  for (const auto& outcome : count_steps({zero_stage, at::kBFloat16, accumulation_steps, layers}))
    CHECK(outcome.steps.back().collectives == expected);
}

// On a GPU each such operator makes the host wait. What LibTorch's CPU operators do not show, waits for streams and
// events, the device of step_capture_test.cpp refuses.
TEST_CASE("from its first forward on a step makes no host sync, and no size depends on device data") {
  const auto zero_stage = GENERATE(3, 2, 1);
  const int64_t accumulation_steps = GENERATE(1, 3), layers = GENERATE(2, 3);
  CAPTURE(zero_stage, accumulation_steps, layers);
  // Kernels of the CPU read what those of a GPU are given by address: AdamW the factor of a slice's gradient, the
  // cross-entropy its seed for each chunk of tokens, the router that of its z-loss.
  const int64_t chunks = (kLength + tiny_model().loss_chunk - 1) / tiny_model().loss_chunk;
  for (const auto& [sizes, steps] : count_steps({zero_stage, at::kBFloat16, accumulation_steps, layers})) {
    const auto& operators = steps.back().operators;
    CHECK(operators.at("aten::_local_scalar_dense") == sizes.slices + accumulation_steps * (chunks + layers));
    for (const char* const waits : {"aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero",
                                    "aten::allclose", "aten::bincount", "aten::_unique2", "aten::repeat_interleave"}) {
      INFO(waits);
      CHECK_FALSE(operators.contains(waits));
    }
  }
}
