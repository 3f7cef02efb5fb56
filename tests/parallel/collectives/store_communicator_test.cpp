#include "parallel/collectives/store_communicator.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <arpa/inet.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <thread>

#include "core/error.h"
#include "parallel/collectives/collective_cases.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

/// One that the system says is free now.
uint16_t free_port() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ENSURE(::bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0, "no port is free");
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(listener);
  return ntohs(address.sin_port);
}

Rendezvous meeting_of(int rank, int size, uint16_t port) {
  Rendezvous meeting;
  meeting.host = "localhost";
  meeting.port = port;
  meeting.rank = rank;
  meeting.size = size;
  return meeting;
}

/// Runs `body` on ranks that are threads of this process, each with a connection of its own. Throws what the first rank
/// threw that failed.
void run_store_ranks(int size, const std::function<void(Communicator&)>& body) {
  const uint16_t port = free_port();
  std::vector<std::exception_ptr> failures(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        const auto world = make_store_communicator(meeting_of(rank, size, port));
        ENSURE(world->rank() == rank && world->size() == size, "rank {} of {}", world->rank(), world->size());
        body(*world);
      } catch (...) {
        failures[static_cast<size_t>(rank)] = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

/// The error of `call`, for threads: one that throws ends all.
std::string said_by(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing";
}

constexpr const char* kPortVariable = "OLMOE_TEST_STORE_PORT";

/// This program once more, as a process that runs one hidden test.
pid_t start_again(const char* test) {
  std::string program = "/proc/self/exe", name = test;
  std::vector<char*> arguments{program.data(), name.data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ);
  ENSURE(error == 0, "posix_spawn: error {}", error);
  return child;
}

}  // namespace

TEST_CASE("store ranks: every collective meets its oracle to the last bit") {
  const int ranks = GENERATE(1, 2, 3);
  REQUIRE_NOTHROW(run_store_ranks(ranks, [](Communicator& world) {
    for (const CollectiveCase& test : collective_cases()) test.check(world, at::kCPU);
  }));
}

TEST_CASE("a message longer than the store's values is sent in chunks") {
  constexpr int64_t kBytes = (int64_t{9} << 20) + 3;
  REQUIRE_NOTHROW(run_store_ranks(2, [](Communicator& world) {
    at::Tensor bytes = at::full({kBytes}, world.rank() == 0 ? 7 : 0, at::kByte);
    world.broadcast(bytes, 0);
    ENSURE(at::equal(bytes, at::full({kBytes}, 7, at::kByte)), "other bytes");
  }));
}

TEST_CASE("missing ranks are named, with the variables that imply them") {
  auto meeting = meeting_of(0, 3, free_port());
  meeting.variables = "RANK=0, WORLD_SIZE=3";
  meeting.alone = "unset RANK WORLD_SIZE";
  meeting.patience = std::chrono::milliseconds(1500);
  std::string learned;
  std::thread other([&] {
    auto there = meeting;
    there.rank = 1;
    learned = said_by([&] { make_store_communicator(there)->barrier(); });
  });
  const auto text = said_by([&] { make_store_communicator(meeting); });
  other.join();
  check_contains(learned, "another rank failed: rank 0 of 3 waited 1 s");
  check_contains(text, "rank 0 of 3 waited 1 s at localhost:");
  check_contains(text,
                 "for rank 2, in vain (RANK=0, WORLD_SIZE=3 in the environment say so; for one rank alone: unset "
                 "RANK WORLD_SIZE)");
}

TEST_CASE("a rank without a server throws an error with the variables that name the server") {
  auto meeting = meeting_of(1, 2, free_port());
  meeting.variables = "RANK=1, WORLD_SIZE=2";
  meeting.patience = std::chrono::milliseconds(1500);
  const auto text = error_of([&] { make_store_communicator(meeting); });
  check_contains(text, "rank 1 of 2 did not reach rank 0 at localhost:");
  check_contains(text, "(RANK=1, WORLD_SIZE=2 in the environment say so");
}

TEST_CASE("a second process with the same rank is refused, and the others continue") {
  const uint16_t port = free_port();
  std::thread first([&] { said_by([&] { make_store_communicator(meeting_of(0, 2, port))->barrier(); }); });
  auto world = make_store_communicator(meeting_of(1, 2, port));
  const auto text = said_by([&] { make_store_communicator(meeting_of(1, 2, port)); });
  CHECK_NOTHROW(world->barrier());
  world.reset();  // the server stays until all have left
  first.join();
  check_contains(text, "another process is rank 1 of 2 at localhost:");
}

TEST_CASE("a port in use is refused at once") {
  const uint16_t port = free_port();
  std::thread first([&] { said_by([&] { make_store_communicator(meeting_of(0, 2, port))->barrier(); }); });
  auto world = make_store_communicator(meeting_of(1, 2, port));
  const auto text = said_by([&] { make_store_communicator(meeting_of(0, 2, port)); });
  world->barrier();
  world.reset();
  first.join();
  check_contains(text, "rank 0 of 2 cannot listen (another MASTER_PORT may be free) at localhost:");
}

TEST_CASE("store ranks in different calls are refused") {
  const std::string text = error_of([] {
    run_store_ranks(
        2, [](Communicator& world) { world.rank() == 1 ? world.barrier() : world.all_reduce(at::zeros({4})); });
  });
  check_contains(text, "all_reduce (Float, 16 bytes");
  check_contains(text, "barrier");
}

TEST_CASE("child: rank 1 aborts", "[.child]") {
  const char* port = std::getenv(kPortVariable);
  REQUIRE(port != nullptr);
  make_store_communicator(meeting_of(1, 2, static_cast<uint16_t>(std::atoi(port))))->abort(71);
}

TEST_CASE("a process that aborts makes the others throw, with its exit code") {
  const uint16_t port = free_port();
  ::setenv(kPortVariable, std::to_string(port).c_str(), 1);
  const pid_t child = start_again("child: rank 1 aborts");
  const auto world = make_store_communicator(meeting_of(0, 2, port));
  auto code = ExitCode::ok;
  std::string text;
  try {
    world->barrier();
  } catch (const Error& error) {
    code = error.code();
    text = error.what();
  }
  CHECK(code == ExitCode::hang);
  CHECK(text == "another rank failed: world: rank 1 aborted the job with exit code 71");
  CHECK_THROWS_AS(world->poll(), Error);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 71);
}
