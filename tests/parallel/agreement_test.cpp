// Records and texts of every rank, on every rank.
#include "parallel/agreement.h"

#include "core/error.h"
#include "parallel/collectives/thread_communicator.h"
#include "support/catch.h"

namespace {

using namespace olmoe;

/// With bytes between its members that belong to none.
struct Record {
  int64_t size;
  char name;
  double value;
  bool operator==(const Record&) const = default;
};

Record record_of(int rank, int index) { return {100 * rank + index, static_cast<char>('a' + rank), rank / 3.0}; }

}  // namespace

TEST_CASE("every rank gets the records of all ranks, in rank order") {
  const int ranks = GENERATE(1, 2, 3);
  const int count = GENERATE(0, 1, 4);
  run_ranks(ranks, [&](Communicator& world) {
    std::vector<Record> mine, expected;
    for (int i = 0; i < count; ++i) mine.push_back(record_of(world.rank(), i));
    for (int rank = 0; rank < world.size(); ++rank)
      for (int i = 0; i < count; ++i) expected.push_back(record_of(rank, i));
    ENSURE(world.size() == ranks && gather_records<Record>(world, mine) == expected, "rank {} has others",
           world.rank());
  });
}

TEST_CASE("records are gathered over a group, not the world") {
  run_ranks(4, [](Communicator& world) {
    const auto pair = world.split(world.rank() / 2, world.rank(), "pair");
    const int mine = world.rank(), first = world.rank() / 2 * 2;
    ENSURE((gather_records<int>(*pair, {&mine, 1}) == std::vector{first, first + 1}), "rank {} has others", mine);
  });
}

TEST_CASE("bytes that do not fit the ranks are refused") {
  const auto world = make_single_communicator();
  const std::vector<std::byte> mine(3);
  std::vector<std::byte> all(4);
  CHECK_THROWS_WITH(gather_bytes(*world, mine, all), Catch::Contains("all_gather: out is 4"));
}

TEST_CASE("texts of every rank are gathered, long ones cut to 1,023 bytes") {
  run_ranks(3, [](Communicator& world) {
    const std::string longest(1023, 'x');
    const std::vector<std::string> texts{"", longest + "more", "two"};
    const auto all = gather_text(world, texts[static_cast<size_t>(world.rank())]);
    ENSURE((all == std::vector<std::string>{"", longest, "two"}), "rank {} has others", world.rank());
  });
}
