// Registered buffers: with which groups, when they are deregistered, and when they are freed.
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
  ~Listener() override { events_.push_back(name_ + " ends"); }
  void* register_buffer(void*, size_t size_bytes) override {
    events_.push_back(name_ + " registers " + std::to_string(size_bytes));
    return this;
  }
  void deregister(void* handle) noexcept override {
    events_.push_back(name_ + (handle == this ? " deregisters" : " gets another handle"));
  }

 private:
  std::string name_;
  Events& events_;
};

class Refuser final : public Registrar {
 public:
  void* register_buffer(void*, size_t) override { throw Error("refused"); }
  void deregister(void*) noexcept override { std::abort(); }
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

TEST_CASE("memory is deregistered and then freed with its last tensor") {
  Fixture f;
  const auto world = std::make_shared<Listener>("world", f.events);
  const auto shard = std::make_shared<Listener>("shard", f.events);
  at::Tensor view;
  {
    const at::Tensor memory = f.wrap();
    REQUIRE(RegisteredMemory::of(memory) != nullptr);
    RegisteredMemory::of(memory)->register_with(world);
    view = memory.view(at::kFloat).narrow(0, 2, 4);
    CHECK(RegisteredMemory::of(view) == RegisteredMemory::of(memory));
    RegisteredMemory::of(view)->register_with(shard);
  }
  view.fill_(3);
  CHECK(f.storage == std::array<float, 8>{0, 0, 3, 3, 3, 3, 0, 0});
  CHECK(f.events == Events{"world registers 32", "shard registers 32"});
  view.reset();
  CHECK(f.events ==
        Events{"world registers 32", "shard registers 32", "world deregisters", "shard deregisters", "freed"});
}

TEST_CASE("memory outlives a group that it is registered with") {
  Fixture f;
  auto memory = f.wrap();
  {
    const auto group = std::make_shared<Listener>("group", f.events);
    RegisteredMemory::of(memory)->register_with(group);
  }
  memory.fill_(1);
  memory.reset();
  CHECK(f.events == Events{"group registers 32", "group ends", "freed"});
}

TEST_CASE("memory is not freed while an exception unwinds the stack, but is after it was caught") {
  Fixture f;
  const auto group = std::make_shared<Listener>("group", f.events);
  const auto use = [&](bool fail) {
    const auto memory = f.wrap();
    RegisteredMemory::of(memory)->register_with(group);
    if (fail) throw std::runtime_error("a peer died");
  };
  CHECK_THROWS(use(true));
  CHECK(f.events == Events{"group registers 32"});
  use(false);
  CHECK(f.events == Events{"group registers 32", "group registers 32", "group deregisters", "freed"});
}

TEST_CASE("a failed registration is not undone; other memory has no registrations") {
  Fixture f;
  const auto refuser = std::make_shared<Refuser>();
  auto memory = f.wrap();
  CHECK_THROWS_AS(RegisteredMemory::of(memory)->register_with(refuser), Error);
  memory.reset();
  CHECK(f.events == Events{"freed"});
  CHECK(RegisteredMemory::of(at::zeros({3})) == nullptr);
}

TEST_CASE("over host memory a group allocates zeroed buffers, and registers any") {
  const auto world = make_single_communicator();
  for (const int64_t bytes : {0, 1, 4096}) {
    const auto memory = world->buffers().allocate(bytes, at::kCPU);
    CHECK(memory.scalar_type() == at::kByte);
    CHECK(memory.sizes() == at::IntArrayRef({bytes}));
    CHECK(memory.count_nonzero().item<int64_t>() == 0);
    CHECK_NOTHROW(world->buffers().register_buffer(memory));
  }
  CHECK_THROWS_WITH(world->buffers().allocate(-1, at::kCPU), Catch::Contains("world.allocate: -1 bytes"));
  CHECK_THROWS_WITH(world->buffers().register_buffer(at::Tensor()), Catch::Contains("undefined tensor"));
  CHECK_THROWS_WITH(world->buffers().register_buffer(at::zeros({2, 3}).t()), Catch::Contains("is not contiguous"));
}
