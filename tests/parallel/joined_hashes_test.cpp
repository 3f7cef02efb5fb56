#include "parallel/joined_hashes.h"

#include "support/catch.h"
#include "support/trainer_fixtures.h"

using namespace olmoe;

TEST_CASE("the joined hash does not depend on which rank hashed which file, but on their order") {
  const auto hash = [](char digit) { return std::string(31, '8') + digit; };
  const std::vector<std::string> all{hash('a'), hash('b'), std::string(32, 'f'), hash('d')};
  const auto alone = make_single_communicator();
  const auto expected = join_hashes(*alone, all);
  CHECK(expected.size() == 32);
  CHECK(join_hashes(*alone, {all[1], all[0], all[2], all[3]}) != expected);
  CHECK(join_hashes(*alone, {all[0], all[1], all[2]}) != expected);

  constexpr int kRanks = 3;
  std::vector<std::string> joined(kRanks);
  run_ranks(kRanks, [&](Communicator& world) {
    ENSURE(world.size() == kRanks, "{} ranks run", world.size());
    auto mine = all;
    for (size_t f = 0; f < mine.size(); ++f)
      if (static_cast<int>(f) % kRanks != world.rank()) mine[f].clear();
    joined[static_cast<size_t>(world.rank())] = join_hashes(world, mine);
  });
  CHECK(joined == std::vector<std::string>(kRanks, expected));
}
