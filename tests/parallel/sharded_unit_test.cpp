// The only file of this room that needs autograd: leaves, kept graphs, accumulated gradients.
#include "parallel/sharded_unit.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <map>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

using Shape = std::vector<int64_t>;

/// A unit of three odd-sized parameters, the second of them a part of a larger global parameter.
struct TestUnit {
  TestUnit(const std::string& name, Communicator& group, at::ScalarType dtype)
      : unit({{name + ".a", {5, 7}, {5, 7}, 0, &a},
              {name + ".experts", {2, 7, 31}, {6, 7, 31}, 2 * 7 * 31, &experts},
              {name + ".gain", {7}, {7}, 0, &gain}},
             group, dtype, at::kCPU),
        seed(static_cast<int>(name.size())) {}

  /// Gives every element of the shard the value of its place in the global parameter.
  void initialise() {
    for (const Slice& slice : unit.slices()) {
      const at::Tensor whole = global(slice.name, slice.global_shape).view(-1);
      unit.shard.narrow(0, slice.offset, slice.end - slice.begin)
          .copy_(whole.narrow(0, slice.begin, slice.end - slice.begin));
    }
  }

  at::Tensor global(const std::string& name, const Shape& shape) const {
    return draw(seed, shape, unit.shard.scalar_type(), static_cast<int>(name.back()));
  }

  /// What a parameter must hold on this rank, before rounding to the compute dtype.
  at::Tensor expected(const UnitParam& param) const {
    const at::Tensor whole = global(param.name, param.global_shape).view(-1);
    return whole.narrow(0, param.first, param.slot->numel()).view(param.shape);
  }

  void check_gathered(at::ScalarType dtype) const {
    for (const UnitParam& param : unit.params()) {
      check_same_bits(param.slot->detach(), expected(param).to(dtype), param.name);
    }
  }

  at::Tensor a, experts, gain;
  ShardedUnit unit;
  int seed;
};

/// A kernel that computes the gradient of a bfloat16 weight in float32: 1 + 2^-12 for each element.
struct WideGradient : torch::autograd::Function<WideGradient> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& w) { return w.sum(); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*, torch::autograd::variable_list) {
    return {at::full({3}, 1 + 0x1p-12F, at::kFloat)};
  }
};

/// y = (x * gain) a' times the experts' sum: every parameter takes part.
at::Tensor forward(const TestUnit& u, const at::Tensor& x_B7) {
  const at::Tensor h_B5 = x_B7.mul(u.gain).mm(u.a.t());
  return h_B5.mm(u.a).mm(u.experts.sum(0)).sum();
}

at::Tensor input(int rank, int micro_batch) { return draw(rank, {3, 7}, at::kDouble, 100 + micro_batch); }

/// Gradients of the sum over all ranks and micro-batches of forward(), by plain autograd on whole
/// tensors.
std::map<std::string, at::Tensor> oracle(const TestUnit& unit, int ranks, int micro_batches) {
  const auto alone = make_single_communicator();
  TestUnit plain("x", *alone, at::kDouble);
  std::map<std::string, at::Tensor> grads;
  const std::vector<at::Tensor*> slots{&plain.a, &plain.experts, &plain.gain};
  for (size_t i = 0; i < slots.size(); ++i) {
    *slots[i] = unit.expected(unit.unit.params()[i]).clone().set_requires_grad(true);
  }
  for (int m = 0; m < micro_batches; ++m) {
    for (int r = 0; r < ranks; ++r) forward(plain, input(r, m)).backward();
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    grads[unit.unit.params()[i].name] = slots[i]->grad();
  }
  return grads;
}

/// Throws unless this rank's slice of every reduced gradient is the oracle's.
void check_grads(const TestUnit& unit, const std::map<std::string, at::Tensor>& expected) {
  for (const Slice& slice : unit.unit.slices()) {
    const int64_t n = slice.end - slice.begin;
    const auto& params = unit.unit.params();
    int64_t first = 0;
    for (const UnitParam& param : params) first = param.name == slice.name ? param.first : first;
    const at::Tensor want = expected.at(slice.name).view(-1).narrow(0, slice.begin - first, n);
    const at::Tensor got = unit.unit.grad.narrow(0, slice.offset, n);
    const double scale = expected.at(slice.name).abs().max().item<double>();
    const double error = got.sub(want).abs().max().item<double>() / scale;
    ENSURE(error <= 1e-12, "gradient of {}: error {}", slice.name, error);
  }
}

/// One buffer for weights and one for gradients, in which two units take turns.
struct Pools {
  explicit Pools(int64_t numel) : weights(2 * numel, at::kDouble, at::kCPU), grads(2 * numel, at::kDouble, at::kCPU) {}
  GatherPool weights, grads;
};

}  // namespace

TEST_CASE("slices cover every element once, and shards are multiples of 256 bytes") {
  const int ranks = GENERATE(1, 2, 3, 4, 5);
  std::vector<std::map<std::string, Shape>> seen(ranks);  // one for each rank: no sharing
  run_ranks(ranks, [&](Communicator& world) {
    TestUnit u("unit", world, at::kBFloat16);
    ENSURE(u.unit.flat_numel() == world.size() * u.unit.shard.numel(), "flat {}", u.unit.flat_numel());
    ENSURE(u.unit.shard.nbytes() % 256 == 0, "a shard of {} bytes", u.unit.shard.nbytes());
    for (const UnitParam& param : u.unit.params()) {
      seen[world.rank()][param.name] = Shape(at::zeros(param.global_shape).numel(), 0);
    }
    for (const Slice& slice : u.unit.slices()) {
      ENSURE(slice.begin < slice.end && slice.offset >= 0 &&
                 slice.offset + slice.end - slice.begin <= u.unit.shard.numel(),
             "slice {} [{}, {}) at {}", slice.name, slice.begin, slice.end, slice.offset);
      for (int64_t i = slice.begin; i < slice.end; ++i) ++seen[world.rank()][slice.name].at(i);
    }
  });
  for (const auto& [name, counts] : seen[0]) {
    for (size_t i = 0; i < counts.size(); ++i) {
      int64_t times = 0;
      for (int r = 0; r < ranks; ++r) times += seen[r].at(name)[i];
      const bool ours = name != "unit.experts" || (i >= 2 * 7 * 31 && i < 4 * 7 * 31);
      REQUIRE(times == (ours ? 1 : 0));
    }
  }
}

TEST_CASE("gather gives every rank the whole parameters, rounded to the compute dtype") {
  const int ranks = GENERATE(1, 2, 3, 4, 5);
  const auto dtype = GENERATE(at::kDouble, at::kFloat, at::kBFloat16);
  run_ranks(ranks, [&](Communicator& world) {
    TestUnit u("unit", world, dtype);
    const int64_t n = u.unit.flat_numel();
    u.unit.bind(at::full({n}, 9.0, dtype), at::zeros({n}, u.unit.shard.scalar_type()));
    u.initialise();
    ENSURE(!u.unit.gathered(), "gathered before gather()");
    u.unit.gather();
    ENSURE(u.unit.gathered(), "not gathered");
    u.check_gathered(dtype);
    for (at::Tensor* slot : {&u.a, &u.experts, &u.gain}) {
      ENSURE(slot->is_leaf() && slot->requires_grad() && reinterpret_cast<uintptr_t>(slot->data_ptr()) % 64 == 0,
             "not an aligned leaf");
    }
    const int64_t calls = world.diagnostics().traffic().all_gather.calls;
    u.unit.gather();
    ENSURE(world.diagnostics().traffic().all_gather.calls == calls, "gathered again what is still there");
    u.unit.shard.mul_(2);
    u.unit.invalidate();
    ENSURE(!u.unit.gathered(), "gathered after invalidate()");
    u.unit.gather();
    check_same_bits(u.a.detach(), u.expected(u.unit.params()[0]).mul(2).to(dtype), "second gather");
    u.unit.shard.mul_(2);
    u.unit.rounded_shard().copy_(u.unit.shard);
    u.unit.invalidate(/*rounded=*/true);
    u.unit.gather();
    check_same_bits(u.a.detach(), u.expected(u.unit.params()[0]).mul(4).to(dtype), "third gather");
    u.unit.release();
    ENSURE(!u.unit.gathered(), "gathered after release()");
#ifndef NDEBUG
    ENSURE(u.a.isnan().all().item<bool>(), "released weights can still be read");
#endif
  });
}

TEST_CASE("pooled units: saved graphs stay valid, gradients accumulate over micro-batches") {
  const int ranks = GENERATE(1, 2, 3, 4, 5);
  run_ranks(ranks, [](Communicator& world) {
    TestUnit first("one", world, at::kDouble), second("second", world, at::kDouble);
    const int64_t n = first.unit.flat_numel();
    Pools pools(n);
    first.unit.bind(pools.weights.range(0, n), pools.grads.range(0, n));
    // Overlaps the first by half: the unit that gathers last owns the buffer.
    second.unit.bind(pools.weights.range(n / 2, n), pools.grads.range(n / 2, n));
    ENSURE(!first.unit.rounded_shard().defined(), "another unit may take this memory");
    first.initialise();
    second.initialise();
    for (int m = 0; m < 3; ++m) {
      const at::Tensor x = input(world.rank(), m);
      first.unit.gather();
      const at::Tensor y_first = forward(first, x);
      second.unit.gather();
      ENSURE(!first.unit.gathered(), "the second unit overwrote the first");
      const at::Tensor y_second = forward(second, x);
      for (auto [unit, y] : {std::pair{&second, y_second}, std::pair{&first, y_first}}) {
        unit->unit.gather();
        unit->unit.claim_full_grads();
        y.backward();
        unit->unit.reduce_grads();
        unit->unit.release();
      }
    }
    check_grads(first, oracle(first, world.size(), 3));
    check_grads(second, oracle(second, world.size(), 3));
  });
}

TEST_CASE("two units side by side in one pool do not evict each other") {
  run_ranks(2, [](Communicator& world) {
    TestUnit dense("one", world, at::kDouble), experts("second", world, at::kDouble);
    const int64_t n = dense.unit.flat_numel();
    Pools pools(n);
    dense.unit.bind(pools.weights.range(0, n), pools.grads.range(0, n));
    experts.unit.bind(pools.weights.range(n, n), pools.grads.range(n, n));
    for (TestUnit* u : {&dense, &experts}) {
      u->initialise();
      u->unit.gather();
      u->unit.claim_full_grads();
    }
    ENSURE(dense.unit.gathered() && experts.unit.gathered(), "one evicted the other");
    forward(dense, input(world.rank(), 0)).add(forward(experts, input(world.rank(), 0))).backward();
    dense.unit.reduce_grads();
    experts.unit.reduce_grads();
    check_grads(dense, oracle(dense, 2, 1));
    check_grads(experts, oracle(experts, 2, 1));
  });
}

TEST_CASE("a group of one may compute in its shard and gather nothing") {
  run_ranks(1, [](Communicator& world) {
    TestUnit u("unit", world, at::kDouble);
    u.unit.bind(u.unit.shard, u.unit.grad);
    u.initialise();
    for (int m = 0; m < 2; ++m) {
      u.unit.gather();
      u.unit.claim_full_grads();
      forward(u, input(0, m)).backward();
      u.unit.reduce_grads();
      u.unit.release();
      u.unit.invalidate();
      ENSURE(u.unit.gathered(), "the shard is always there");
    }
    check_grads(u, oracle(u, 1, 2));
    ENSURE(world.diagnostics().traffic().all_gather.calls == 0, "an alias was gathered");
  });
}

TEST_CASE("gradients that will be stored are not zeroed, all others are") {
  run_ranks(2, [](Communicator& world) {
    at::Tensor a, stored, b;
    bool to_store = false;
    const UnitParam with_flag{"stored", {5, 2}, {5, 2}, 0, &stored, &to_store};
    ShardedUnit unit({{"a", {3}, {3}, 0, &a}, with_flag, {"b", {7}, {7}, 0, &b}}, world, at::kFloat, at::kCPU);
    const int64_t n = unit.flat_numel();
    at::Tensor full = at::full({n}, 3.0);
    unit.bind(at::zeros({n}), full);
    unit.claim_full_grads();
    ENSURE(to_store, "the gradient is not marked to be stored");
    check_same_bits(stored.grad(), at::full({5, 2}, 3.0), "left alone");
    ENSURE((full != 0).sum().item<int64_t>() == 10, "padding or another parameter kept a value");
    try {
      unit.reduce_grads();
      ENSURE(false, "a gradient that nobody stored was reduced");
    } catch (const Error& error) {
      ENSURE(std::string(error.what()).find("the gradient of stored was never stored") != std::string::npos, "{}",
             error.what());
    }
    stored.grad().fill_(1);
    to_store = false;
    unit.claim_full_grads();  // of a later micro-batch, before the reduction
    ENSURE(!to_store, "what was stored would be lost");
    unit.reduce_grads();
    for (const Slice& slice : unit.slices())
      if (slice.name == "stored")
        check_same_bits(unit.grad.narrow(0, slice.offset, slice.end - slice.begin),
                        at::full({slice.end - slice.begin}, 2.0), "summed over ranks");
  });
}

TEST_CASE("bfloat16 weights accumulate float32 gradients") {
  // bfloat16 cannot hold 1 + 2^-12: the result has it only if nothing is rounded before.
  run_ranks(2, [](Communicator& world) {
    at::Tensor w;
    ShardedUnit unit({{"w", {3}, {3}, 0, &w}}, world, at::kBFloat16, at::kCPU);
    ENSURE(unit.shard.dtype() == at::kFloat, "master weights are {}", unit.shard.dtype().name());
    unit.bind(at::zeros({unit.flat_numel()}, at::kBFloat16), at::zeros({unit.flat_numel()}));
    unit.gather();
    unit.claim_full_grads();
    w.sum().backward();
    WideGradient::apply(w).backward();
    ENSURE(w.grad().dtype() == at::kFloat, "gradient is {}", w.grad().dtype().name());
    unit.reduce_grads();
    for (const Slice& slice : unit.slices()) {
      check_same_bits(unit.grad.narrow(0, slice.offset, 3), at::full({3}, 2 * (2 + 0x1p-12F)), "grad");
    }
  });
}

TEST_CASE("a reduction in bfloat16 rounds each rank's whole gradient once, and sums in float32 in rank order") {
  constexpr int kRanks = 3;
  run_ranks(kRanks, [](Communicator& world) {
    TestUnit u("unit", world, at::kFloat);
    const int64_t n = u.unit.flat_numel(), own = n / kRanks;
    const auto grad_of = [&](int rank) { return draw(rank, {n}, at::kFloat, 5); };
    at::Tensor full = at::zeros({n});
    u.unit.bind(at::zeros({n}), full);
    const auto reduce = [&](const at::Tensor& buffer) {
      u.unit.grad.zero_();
      u.unit.claim_full_grads();
      full.copy_(grad_of(world.rank()));
      const int64_t before = world.diagnostics().traffic().reduce_scatter.bytes;
      u.unit.reduce_grads(buffer);
      return world.diagnostics().traffic().reduce_scatter.bytes - before;
    };
    const int64_t master_bytes = reduce({});
    const at::Tensor master = u.unit.grad.clone();
    const int64_t reduce_bytes = reduce(at::empty({n + 5}, at::kBFloat16));  // of a wider unit
    ENSURE(2 * reduce_bytes == master_bytes && reduce_bytes == (kRanks - 1) * own * 2, "{} and {} bytes", reduce_bytes,
           master_bytes);
    at::Tensor sum = at::zeros({n});
    for (int rank = 0; rank < kRanks; ++rank) sum = sum + grad_of(rank).to(at::kBFloat16).to(at::kFloat);
    check_same_bits(u.unit.grad, sum.narrow(0, world.rank() * own, own), "the sum");
    ENSURE(!at::equal(u.unit.grad, master), "nothing was rounded");
  });
}

TEST_CASE("misuse of a unit is refused") {
  auto world = make_single_communicator();
  TestUnit u("one", *world, at::kFloat), v("second", *world, at::kFloat);
  const int64_t n = u.unit.flat_numel();
  CHECK_THROWS_AS(u.unit.gather(), Error);
  CHECK_THROWS_AS(u.unit.bind(at::zeros({n + 1}), at::zeros({n})), Error);
  CHECK_THROWS_AS(u.unit.bind(at::zeros({n}, at::kDouble), at::zeros({n})), Error);
  CHECK_THROWS_AS(u.unit.bind(at::zeros({n}), at::zeros({n}, at::kBFloat16)), Error);
  GatherPool weights(n, at::kFloat, at::kCPU), grads(n, at::kFloat, at::kCPU);
  CHECK_THROWS_AS(weights.range(1, n), Error);
  u.unit.bind(weights.range(0, n), grads.range(0, n));
  v.unit.bind(weights.range(0, n), grads.range(0, n));
  CHECK_THROWS_AS(u.unit.bind(at::zeros({n}), at::zeros({n})), Error);
  CHECK_THROWS_AS(u.unit.reduce_grads(), Error);  // never claimed
  u.unit.claim_full_grads();
  v.unit.claim_full_grads();
  CHECK_THROWS_AS(u.unit.reduce_grads(), Error);  // the other took the buffer
  CHECK_NOTHROW(v.unit.reduce_grads());
  CHECK_THROWS_AS(v.unit.reduce_grads(), Error);  // reduced already
  at::Tensor slot;
  CHECK_THROWS_AS(ShardedUnit({{"w", {4}, {6}, 3, &slot}}, *world, at::kFloat, at::kCPU), Error);
}
