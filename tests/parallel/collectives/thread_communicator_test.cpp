#include "parallel/collectives/thread_communicator.h"

#include <ATen/ops/zeros.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "parallel/collectives/stacked_communicator.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

/// The part of NCCL's back end that serves tensors in host memory.
class Stacked final : public StackedCommunicator {
 public:
  using StackedCommunicator::StackedCommunicator;

 private:
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    return std::make_unique<Stacked>(split_host(color, key, std::move(name)));
  }
};

}  // namespace

TEST_CASE("thread ranks: every collective meets its oracle to the last bit") {
  const int ranks = GENERATE(1, 2, 3, 4, 5);
  for (const CollectiveCase& test : collective_cases()) {
    DYNAMIC_SECTION(test.name << " on " << ranks << " ranks") {
      REQUIRE_NOTHROW(run_ranks(ranks, [&](Communicator& world) { test.check(world, at::kCPU); }));
    }
  }
}

TEST_CASE("a back end on top of another meets the same oracles, and each call is traced once") {
  const int ranks = GENERATE(2, 3);
  for (const CollectiveCase& test : collective_cases()) {
    DYNAMIC_SECTION(test.name << " on " << ranks << " ranks") {
      REQUIRE_NOTHROW(run_ranks(ranks, [&](Communicator& threads) {
        Stacked world(threads.split(0, threads.rank(), "world"));
        test.check(world, at::kCPU);
      }));
    }
  }
}

TEST_CASE("the single communicator meets the same oracles") {
  for (const CollectiveCase& test : collective_cases()) {
    DYNAMIC_SECTION(test.name) {
      auto world = make_single_communicator();
      REQUIRE(world->size() == 1);
      REQUIRE_NOTHROW(test.check(*world, at::kCPU));
    }
  }
}

TEST_CASE("a throwing rank ends all, and its own exception comes out") {
  std::atomic<int> released = 0;
  auto body = [&](Communicator& world) {
    auto pair = world.split(world.rank() / 2, 0, "pair");
    if (world.rank() == 2) throw DataError("rank 2 found a hole");
    try {
      // Ranks 0 and 1 wait in the world, rank 3 in a group of its own with rank 2.
      world.rank() == 3 ? pair->barrier() : world.barrier();
    } catch (const Error& error) {
      check_contains(error.what(), "another rank failed: rank 2: rank 2 found a hole");
      ++released;
      throw;
    }
  };
  REQUIRE_THROWS_AS(run_ranks(4, body), DataError);
  REQUIRE(released == 3);
}

TEST_CASE("ranks in different calls are refused, both sides named") {
  auto mismatch = [](const std::function<void(Communicator&)>& body) { return error_of([&] { run_ranks(3, body); }); };
  SECTION("another collective") {
    const std::string text =
        mismatch([](Communicator& world) { world.rank() == 1 ? world.barrier() : world.all_reduce(at::zeros({4})); });
    check_contains(text, "call #0 all_reduce (Float, 16 bytes, detail 0)");
    check_contains(text, "call #0 barrier");
  }
  SECTION("another size") {
    check_contains(mismatch([](Communicator& world) { world.all_reduce(at::zeros({world.rank() == 2 ? 5 : 4})); }),
                   "20 bytes");
  }
  SECTION("another dtype of the same size") {
    check_contains(mismatch([](Communicator& world) {
                     world.all_reduce(at::zeros({4}, world.rank() == 0 ? at::kInt : at::kFloat));
                   }),
                   "all_reduce (Int, 16 bytes");
  }
  SECTION("another root") {
    check_contains(mismatch([](Communicator& world) { world.broadcast(at::zeros({4}), world.rank() % 2); }),
                   "detail 1");
  }
  SECTION("rows that the receiver does not expect") {
    check_contains(mismatch([](Communicator& world) {
                     std::vector<int64_t> send(3, 1), recv(3, 1);
                     if (world.rank() == 0) send[1] = 2;
                     const int64_t rows = world.rank() == 0 ? 4 : 3;
                     world.all_to_all(at::zeros({3, 2}), at::zeros({rows, 2}), recv, send);
                   }),
                   "all_to_all");
  }
}

TEST_CASE("ranks in a deadlock throw") {
  const std::string missing = "made different calls";
  SECTION("one rank has ended") {
    check_contains(error_of([] {
                     run_ranks(3, [](Communicator& world) {
                       if (world.rank() != 1) world.barrier();
                     });
                   }),
                   missing);
  }
  SECTION("two groups wait for each other") {
    check_contains(error_of([] {
                     run_ranks(2, [](Communicator& world) {
                       auto other = world.split(0, 0, "other");
                       world.rank() == 0 ? world.barrier() : other->barrier();
                     });
                   }),
                   missing);
  }
}

TEST_CASE("abort ends every rank with its exit code") {
  try {
    run_ranks(3, [](Communicator& world) {
      if (world.rank() == 0) world.abort(static_cast<int>(ExitCode::hang));
      world.barrier();
    });
    FAIL("no rank threw");
  } catch (const Error& error) {
    REQUIRE(error.code() == ExitCode::hang);
    REQUIRE(std::string(error.what()).find("exit code 71") != std::string::npos);
  }
}

TEST_CASE("a watchdog reads the trace of a hanging rank and aborts it") {
  std::atomic<bool> aborted = false, refused = false;
  auto body = [&](Communicator& world) {
    if (world.rank() == 1) {  // busy elsewhere, and late for the collective
      while (!aborted) std::this_thread::yield();
      return;
    }
    std::thread watchdog([&] {
      while (world.diagnostics().trace()->text() != "#0 world.all_reduce Float 4 entered\n") std::this_thread::yield();
      world.abort(static_cast<int>(ExitCode::hang));
      aborted = true;
    });
    const std::string text = error_of([&] { world.all_reduce(at::zeros({4})); });
    watchdog.join();
    refused = text.find("exit code 71") != std::string::npos;
  };
  REQUIRE_THROWS_AS(run_ranks(2, body), Error);
  REQUIRE(refused);
}
