// Every rank runs every test. Rank 0 prints; another rank prints only if a test failed there. The
// exit code is the largest of all ranks. OLMOE_EXPECT_RANKS says how many there must be, so that a
// broken launcher that starts N groups of one cannot look green.
#include <ATen/ops/full.h>

#include <cstdlib>
#include <iostream>
#include <sstream>

#include "core/error.h"
#include "parallel/collectives/mpi_communicator.h"
#include "support/run_tests.h"
#include "world.h"

namespace {

olmoe::Communicator* world = nullptr;  // Catch's tests take no arguments

int expected_ranks() {
  const char* text = std::getenv("OLMOE_EXPECT_RANKS");
  ENSURE(text != nullptr, "OLMOE_EXPECT_RANKS must say how many ranks this run has");
  return std::atoi(text);
}

int run_on_all_ranks(int argc, char* argv[]) {
  std::ostringstream quiet;
  std::streambuf* console = std::cout.rdbuf();
  if (world->rank() != 0) std::cout.rdbuf(quiet.rdbuf());
  const int failures = olmoe::run_tests(argc, argv);
  std::cout.rdbuf(console);
  if (failures != 0 && world->rank() != 0) {
    std::cout << "rank " << world->rank() << ":\n" << quiet.str() << std::flush;
  }
  return failures;
}

}  // namespace

olmoe::Communicator& olmoe::mpi_world() { return *world; }

int main(int argc, char* argv[]) {
  olmoe::MpiSession session;
  const auto communicator = session.world();
  world = communicator.get();
  try {
    ENSURE(world->size() == expected_ranks(), "{} ranks run, OLMOE_EXPECT_RANKS = {}", world->size(), expected_ranks());
    at::Tensor worst = at::full({1}, run_on_all_ranks(argc, argv), at::kInt);
    world->all_reduce(worst, olmoe::Reduce::max);
    return worst.data_ptr<int32_t>()[0];
  } catch (const std::exception& error) {
    std::cerr << "rank " << world->rank() << ": " << error.what() << "\n" << world->diagnostics().trace()->text();
    world->abort(1);
  }
}
