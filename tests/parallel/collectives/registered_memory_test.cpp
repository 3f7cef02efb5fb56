// Memory that groups were told of: who is told, who forgets, and when it is freed.
#include "parallel/collectives/registered_memory.h"

#include <ATen/ops/zeros.h>

#include <array>
#include <stdexcept>
#include <string>

#include "core/error.h"
#include "parallel/collectives/communicator.h"
#include "parallel/collectives/rank_sum.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

using Events = std::vector<std::string>;

class Listener final : public Registrar {
 public:
  Listener(std::string name, Events& events) : name_(std::move(name)), events_(events) {}
  ~Listener() override { events_.push_back(name_ + " dies"); }
  void* remember(void*, size_t size_bytes) override {
    events_.push_back(name_ + " is told of " + std::to_string(size_bytes));
    return this;
  }
  void forget(void* handle) noexcept override {
    events_.push_back(name_ + (handle == this ? " forgets" : " is confused"));
  }

 private:
  std::string name_;
  Events& events_;
};

class Refuser final : public Registrar {
 public:
  void* remember(void*, size_t) override { throw Error("refused"); }
  void forget(void*) noexcept override { std::abort(); }
};

struct Fixture {
  std::array<float, 8> storage{};
  Events events;
  at::Tensor wrap() {
    return RegisteredMemory::wrap(storage.data(), sizeof storage, at::kCPU, [this](void* data) {
      events.emplace_back(data == storage.data() ? "freed" : "something else freed");
    });
  }
};

}  // namespace

TEST_CASE("memory goes with its last tensor, after those who know it have forgotten it") {
  Fixture f;
  const auto world = std::make_shared<Listener>("world", f.events);
  const auto shard = std::make_shared<Listener>("shard", f.events);
  at::Tensor view;
  {
    const at::Tensor memory = f.wrap();
    REQUIRE(RegisteredMemory::of(memory) != nullptr);
    RegisteredMemory::of(memory)->tell(world);
    view = memory.view(at::kFloat).narrow(0, 2, 4);
    CHECK(RegisteredMemory::of(view) == RegisteredMemory::of(memory));
    RegisteredMemory::of(view)->tell(shard);
  }
  view.fill_(3);
  CHECK(f.storage == std::array<float, 8>{0, 0, 3, 3, 3, 3, 0, 0});
  CHECK(f.events == Events{"world is told of 32", "shard is told of 32"});
  view.reset();
  CHECK(f.events == Events{"world is told of 32", "shard is told of 32", "world forgets", "shard forgets", "freed"});
}

TEST_CASE("a group that is gone is told nothing more, and memory outlives it") {
  Fixture f;
  auto memory = f.wrap();
  {
    const auto group = std::make_shared<Listener>("group", f.events);
    RegisteredMemory::of(memory)->tell(group);
  }
  memory.fill_(1);
  memory.reset();
  CHECK(f.events == Events{"group is told of 32", "group dies", "freed"});
}

TEST_CASE("memory is left alone where an exception unwinds, and freed where it was caught before") {
  Fixture f;
  const auto group = std::make_shared<Listener>("group", f.events);
  const auto use = [&](bool fail) {
    const auto memory = f.wrap();
    RegisteredMemory::of(memory)->tell(group);
    if (fail) throw std::runtime_error("a peer died");
  };
  CHECK_THROWS(use(true));
  CHECK(f.events == Events{"group is told of 32"});
  use(false);
  CHECK(f.events == Events{"group is told of 32", "group is told of 32", "group forgets", "freed"});
}

TEST_CASE("a group that refuses memory is not asked to forget it; other memory is nobody's") {
  Fixture f;
  const auto refuser = std::make_shared<Refuser>();
  auto memory = f.wrap();
  CHECK_THROWS_AS(RegisteredMemory::of(memory)->tell(refuser), Error);
  memory.reset();
  CHECK(f.events == Events{"freed"});
  CHECK(RegisteredMemory::of(at::zeros({3})) == nullptr);
}

TEST_CASE("over host memory a group gives memory like any, zero, and knows all of it") {
  const auto world = make_single_communicator();
  for (const int64_t bytes : {0, 1, 4096}) {
    const auto memory = world->allocate(bytes, at::kCPU);
    CHECK(memory.scalar_type() == at::kByte);
    CHECK(memory.sizes() == at::IntArrayRef({bytes}));
    CHECK(memory.count_nonzero().item<int64_t>() == 0);
    CHECK_NOTHROW(world->enroll(memory));
  }
  CHECK_THROWS_AS(world->allocate(-1, at::kCPU), Error);
  CHECK_THROWS_AS(world->enroll(at::Tensor()), Error);
}
