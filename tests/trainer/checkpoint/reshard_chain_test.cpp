// State that goes through a chain of layouts, from one checkpoint to the next, keeps every bit.
#include <ATen/ops/empty.h>

#include <atomic>
#include <cstring>

#include "core/random.h"
#include "support/checkpoint_fixtures.h"
#include "support/layout_ladder.h"
#include "support/stage_with_buffer.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

struct Hop {
  Layout layout;
  Checkpointer::Mode mode;
};
constexpr auto kWait = Checkpointer::Mode::wait, kAsync = Checkpointer::Mode::async;

int ranks_of(const Layout& layout) { return static_cast<int>(layout.replicate * layout.shard); }

/// 24 experts: every divisor of 8, 4 and 6 divides them.
ModelConfig model_of_chain() {
  auto model = tiny_model();
  model.num_experts = 24;
  return model;
}

StageRunner::Options options_of(int64_t zero_stage) {
  auto options = runner_options(at::kFloat, zero_stage == 3 ? Residency::pooled : Residency::resident);
  options.grads = zero_stage == 1 ? Residency::resident : Residency::pooled;
  return options;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.nbytes() == b.nbytes() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

/// Elements [begin, end) of a tensor of the state that the chain begins with. Its first two are what arithmetic would
/// lose: a negative zero and a subnormal number.
at::Tensor first_values(const std::string& kind, const Slice& slice, at::ScalarType dtype) {
  const RandomStream stream(3, kind + slice.name);
  auto out = at::empty({slice.end - slice.begin}, at::kDouble);
  for (int64_t i = 0; i < out.numel(); ++i) {
    const auto element = slice.begin + i;
    const double value = stream.uniform(static_cast<uint64_t>(element)) - 0.5;
    out.data_ptr<double>()[i] = element == 0 ? -0.0 : element == 1 ? 1e-41 : value;
  }
  return out.to(dtype);
}

/// A rank of one hop: weights, moments and two buffers, one of them float64.
class HopRank {
 public:
  HopRank(Communicator& world, const Layout& layout, OptimizerKind kind = OptimizerKind::adamw)
      : optimizer_config_{.kind = kind},
        mesh_(world,
              {static_cast<int>(layout.replicate), static_cast<int>(layout.shard), static_cast<int>(layout.expert)}),
        runner_(stages(), mesh_, options_of(layout.zero_stage)),
        optimizer_(runner_.units(), optimizer_config_) {
    each_slice([](at::Tensor part, const std::string&, const Slice&) { part.fill_(7); });
  }
  void fill() {
    each_slice([](at::Tensor part, const std::string& kind, const Slice& slice) {
      part.copy_(first_values(kind, slice, part.scalar_type()));
    });
  }
  bool is_as_at_first() {
    bool same = true;
    each_slice([&](const at::Tensor& part, const std::string& kind, const Slice& slice) {
      same &= same_bits(part, first_values(kind, slice, part.scalar_type()));
    });
    return same;
  }
  void load(const std::string& folder) {
    Checkpointer checkpointer(folder, mesh_, {});
    checkpointer.load(checkpointer.read_manifest(1), state());
  }
  void save(const std::string& folder, Checkpointer::Mode mode) {
    Checkpointer checkpointer(folder, mesh_, {});
    Manifest manifest;
    manifest.step = 1;
    checkpointer.begin_save(manifest, state(), mode);
    if (mode == kAsync) {  // the state goes on to change
      checkpointer.wait_until_copied();
      each_slice([](at::Tensor part, const std::string&, const Slice&) { part.fill_(7); });
    }
    checkpointer.commit();
  }

 private:
  std::vector<std::unique_ptr<Stage>> stages() {
    auto out = make_stages(model_, mesh_);
    out[1] = std::make_unique<StageWithBuffer>(std::move(out[1]), "blocks.0.bias", at::zeros({24}, at::kFloat));
    out[2] = std::make_unique<StageWithBuffer>(std::move(out[2]), "blocks.1.bias", at::zeros({2, 3}, at::kDouble));
    return out;
  }
  std::vector<StateTensor> state() const { return saved_state(optimizer_, runner_); }
  void each_slice(const std::function<void(at::Tensor, const std::string&, const Slice&)>& visit) {
    for (const auto& tensor : state())
      for (const auto& slice : tensor.slices)
        visit(tensor.flat.narrow(0, slice.offset, slice.end - slice.begin), tensor.kind, slice);
  }

  const ModelConfig model_ = model_of_chain();
  const OptimizerConfig optimizer_config_;
  DeviceMesh mesh_;
  StageRunner runner_;
  Optimizer optimizer_;
};

/// Every tensor of a checkpoint, joined over its files, by "kind:name".
std::map<std::string, at::Tensor> joined(const std::string& folder) {
  CheckpointReader reader(folder + "/step_000000001");
  std::map<std::string, at::Tensor> out;
  for (const auto& tensor : reader.tensors()) {
    auto whole = at::empty({tensor.numel}, *weight_dtype(tensor.dtype));
    reader.read(tensor.kind, tensor.name, 0, whole);
    out.emplace(tensor.kind + ":" + tensor.name, whole);
  }
  return out;
}

std::map<std::string, int> kinds_of(const std::map<std::string, at::Tensor>& state) {
  std::map<std::string, int> kinds;
  for (const auto& [name, tensor] : state) ++kinds[name.substr(0, name.find(':'))];
  return kinds;
}

bool same_state(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  return std::ranges::equal(
      a, b, [](const auto& x, const auto& y) { return x.first == y.first && same_bits(x.second, y.second); });
}

/// Ranks of a hop that had the state of the chain's begin after they loaded it; all saved it to `to`.
int pass_on(const Hop& hop, const std::string& from, const std::string& to, OptimizerKind kind = OptimizerKind::adamw) {
  std::atomic<int> same = 0;
  run_ranks(ranks_of(hop.layout), [&](Communicator& world) {
    HopRank rank(world, hop.layout, kind);
    ENSURE(!rank.is_as_at_first(), "there is state before it was loaded");
    rank.load(from);
    same += rank.is_as_at_first();
    rank.save(to, hop.mode);
  });
  return same;
}

}  // namespace

TEST_CASE("state keeps every bit through 8, 4, 6, 1 and 8 ranks: replicate, shard, expert, ZeRO-1, 2 and 3") {
  // Layout: replicate, shard, expert, ZeRO stage.
  const std::vector<std::vector<Hop>> chains{{{{1, 8, 4, 3}, kAsync},
                                              {{2, 2, 2, 1}, kWait},
                                              {{2, 3, 3, 2}, kAsync},
                                              {{1, 1, 1, 3}, kWait},
                                              {{4, 2, 1, 1}, kAsync}},
                                             {{{2, 4, 2, 1}, kWait},
                                              {{1, 4, 4, 3}, kAsync},
                                              {{1, 6, 2, 1}, kWait},
                                              {{1, 1, 1, 2}, kAsync},
                                              {{1, 8, 8, 2}, kWait}},
                                             {{{8, 1, 1, 2}, kAsync},
                                              {{1, 4, 2, 2}, kAsync},
                                              {{1, 6, 6, 3}, kAsync},
                                              {{1, 1, 1, 1}, kAsync},
                                              {{2, 4, 4, 3}, kAsync}},
                                             {{{1, 8, 2, 1}, kWait},
                                              {{4, 1, 1, 3}, kWait},
                                              {{3, 2, 2, 1}, kWait},
                                              {{1, 1, 1, 1}, kWait},
                                              {{1, 8, 1, 3}, kWait}}};
  for (size_t c = 0; c < chains.size(); ++c) {
    const TempFolder folder;
    const auto at = [&](size_t hop) { return folder / fmt::format("hop{}", hop); };
    const auto& chain = chains[c];
    run_ranks(ranks_of(chain[0].layout), [&](Communicator& world) {
      HopRank rank(world, chain[0].layout);
      rank.fill();
      rank.save(at(0), chain[0].mode);
    });
    const auto first = joined(at(0));
    REQUIRE(kinds_of(first).size() == 4);
    CHECK(kinds_of(first)["weight"] == kinds_of(first)["exp_avg"]);
    CHECK(kinds_of(first)["weight"] == kinds_of(first)["exp_avg_sq"]);
    CHECK(kinds_of(first)["buffer"] == 2);
    for (size_t hop = 1; hop < chain.size(); ++hop) {
      INFO("chain " << c << ", to " << describe(chain[hop].layout));
      CHECK(pass_on(chain[hop], at(hop - 1), at(hop)) == ranks_of(chain[hop].layout));
      CHECK(same_state(joined(at(hop)), first));
    }
  }
}

TEST_CASE("every layout of 4 and of 6 ranks passes on what one of 8 saved") {
  const TempFolder folder;
  run_ranks(8, [&](Communicator& world) {
    HopRank rank(world, {2, 4, 2, 3});
    rank.fill();
    rank.save(folder / "first", kAsync);
  });
  const auto first = joined(folder / "first");
  for (const int ranks : {4, 6})
    for (const auto& layout : layouts_of(ranks)) {
      INFO(describe(layout));
      CHECK(pass_on({layout, kWait}, folder / "first", folder / "next") == ranks);
      CHECK(same_state(joined(folder / "next"), first));
    }
}

TEST_CASE("the momentum of Muon keeps every bit in every layout of 4 ranks, from one of 8") {
  const TempFolder folder;
  run_ranks(8, [&](Communicator& world) {
    HopRank rank(world, {2, 4, 2, 3}, OptimizerKind::muon);
    rank.fill();
    rank.save(folder / "first", kAsync);
  });
  const auto first = joined(folder / "first");
  auto kinds = kinds_of(first);
  CHECK(kinds["momentum"] == 3 * 4);  // q, k and v, output, gate and up, down
  CHECK(kinds["momentum"] + kinds["exp_avg"] == kinds["weight"]);
  for (const auto& layout : layouts_of(4)) {
    INFO(describe(layout));
    CHECK(pass_on({layout, kWait}, folder / "first", folder / "next", OptimizerKind::muon) == 4);
    CHECK(same_state(joined(folder / "next"), first));
  }
}
