#include "data/instance_filter.h"

#include <ATen/ops/equal.h>

#include <algorithm>
#include <random>
#include <vector>

#include "data/documents.h"
#include "data/sequence_skip.h"
#include "data/token_files.h"
#include "support/catch.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::TokenFolder;

namespace {

using Ids = std::vector<int64_t>;
constexpr InstanceFilter kPublished{.repetition_max_count = 32};

/// The rule as it is said: somewhere begin so many equal blocks of one period.
bool repeats_by_definition(const Ids& ids, const InstanceFilter& filter) {
  for (int64_t period = filter.repetition_min_period; period <= filter.repetition_max_period; ++period)
    for (int64_t begin = 0; begin + filter.repetition_max_count * period <= std::ssize(ids); ++begin) {
      bool equal = true;
      for (int64_t block = 1; block < filter.repetition_max_count; ++block)
        equal &= std::equal(ids.begin() + begin, ids.begin() + begin + period, ids.begin() + begin + block * period);
      if (equal) return true;
    }
  return false;
}

/// `length` ids that are all different, but for `repeated` ids from `begin` on that have a period.
Ids with_repetition(int64_t length, int64_t begin, int64_t repeated, int64_t period) {
  Ids ids(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; ++i) ids[static_cast<size_t>(i)] = 1000 + i;
  for (int64_t i = 0; i < repeated; ++i) ids[static_cast<size_t>(begin + i)] = i % period;
  return ids;
}

Ids row(const at::Tensor& x_BS, int64_t b) {
  const auto* const begin = x_BS.const_data_ptr<int64_t>() + b * x_BS.size(1);
  return {begin, begin + x_BS.size(1)};
}

}  // namespace

TEST_CASE("32 blocks of a period from 1 to 13 mask a sequence wherever they are, one id less does not") {
  constexpr int64_t kLength = 512;
  for (int64_t period = 1; period <= 13; ++period) {
    const int64_t repeated = 32 * period;
    for (const int64_t begin : {int64_t{0}, int64_t{1}, period, int64_t{37}, kLength - repeated}) {
      CAPTURE(period, begin);
      CHECK(repeats_itself(with_repetition(kLength, begin, repeated, period), kPublished));
      CHECK_FALSE(repeats_itself(with_repetition(kLength, begin, repeated - 1, period), kPublished));
    }
    CHECK_FALSE(repeats_itself(with_repetition(kLength, 3, 31 * period, period), kPublished));
    auto broken = with_repetition(kLength, 5, repeated, period);
    broken[static_cast<size_t>(5 + repeated / 2)] = 999;  // 32 blocks, of which one differs
    CHECK_FALSE(repeats_itself(broken, kPublished));
  }
  CHECK_FALSE(repeats_itself(with_repetition(kLength, 0, kLength, 14), kPublished));
  CHECK(repeats_itself(with_repetition(kLength, 0, kLength, 14),
                       {.repetition_max_count = 32, .repetition_min_period = 1, .repetition_max_period = 14}));
}

TEST_CASE("a whole sequence of one id, and sequences shorter than any repetition") {
  for (const int64_t length : {0, 1, 2, 31})
    CHECK_FALSE(repeats_itself(Ids(static_cast<size_t>(length), 7), kPublished));
  for (const int64_t length : {32, 33, 4096}) CHECK(repeats_itself(Ids(static_cast<size_t>(length), 7), kPublished));
}

TEST_CASE("one id repeated has every period: the shortest one that counts decides how often") {
  InstanceFilter filter{.repetition_max_count = 5, .repetition_min_period = 3, .repetition_max_period = 4};
  CHECK_FALSE(repeats_itself(Ids(14, 7), filter));
  CHECK(repeats_itself(Ids(15, 7), filter));
}

TEST_CASE("random sequences of few ids are masked exactly where the rule's definition masks them") {
  std::mt19937 random(54);
  const auto below = [&](int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(random); };
  int masked = 0;
  constexpr int kTrials = 6000;
  for (int trial = 0; trial < kTrials; ++trial) {
    const int64_t shortest = 1 + below(3);
    const InstanceFilter filter{3 + below(3), shortest, shortest + below(4)};
    Ids ids(static_cast<size_t>(below(60)));
    const int64_t vocabulary = 1 + below(3);
    for (auto& id : ids) id = below(vocabulary);
    if (!ids.empty() && below(2) == 0) {  // a stretch with a period
      const auto begin = static_cast<size_t>(below(std::ssize(ids))), period = static_cast<size_t>(1 + below(6));
      for (size_t i = begin + period; i < ids.size(); ++i) ids[i] = ids[i - period];
    }
    const bool expected = repeats_by_definition(ids, filter);
    masked += expected ? 1 : 0;
    REQUIRE(repeats_itself(ids, filter) == expected);
  }
  CHECK(masked > kTrials / 10);
  CHECK(masked < kTrials * 9 / 10);
}

TEST_CASE("a masked sequence keeps its ids and counts, and none of its targets has a loss") {
  TokenFolder folder;
  std::vector<uint16_t> ids;
  for (const uint16_t first : {10, 0, 20, 30})
    for (uint16_t i = 0; i < 8; ++i) ids.push_back(first == 0 ? 5 : static_cast<uint16_t>(first + i));
  const auto dataset =
      std::make_shared<TokenDataset>(std::vector{folder.write("a.npy", ids)}, TokenDtype::uint16, 8, 100);
  const std::shared_ptr<const SequenceSource> plain = make_file_source(dataset, 0, /*shuffle=*/false);
  const auto filtered = make_filtered_source(plain, {.repetition_max_count = 4});
  const auto before = make_batch(*plain, 0, 4), after = make_batch(*filtered, 0, 4);
  CHECK(at::equal(before.ids_BS, after.ids_BS));
  CHECK(before.num_masked == 0);
  CHECK(after.num_masked == 1);
  CHECK(after.num_targets == before.num_targets);
  CHECK(row(after.targets_BS, 1) == Ids(8, -100));
  for (const int64_t b : {0, 2, 3}) CHECK(row(after.targets_BS, b) == row(before.targets_BS, b));
  CHECK(filtered->fingerprint() == plain->fingerprint());
  CHECK(filtered->num_sequences() == 4);
  CHECK(make_batch(*filtered, 1, 1).num_masked == 1);  // alone as among others
  CHECK(make_batch(*filtered, 0, 0).num_masked == 0);
}

TEST_CASE("a repetition across the border of two sequences counts in each for itself") {
  TokenFolder folder;
  const std::vector<uint16_t> ids{1, 2, 3, 4, 9, 9, 9,  // three at the end
                                  9, 9, 9, 1, 2, 3, 4,  // three at the beginning
                                  9, 9, 9, 9, 1, 2, 3};
  const auto dataset =
      std::make_shared<TokenDataset>(std::vector{folder.write("a.npy", ids)}, TokenDtype::uint16, 7, 100);
  const auto source = make_filtered_source(make_file_source(dataset, 0, false), {.repetition_max_count = 4});
  const std::vector<int64_t> masked{0, 0, 1};
  for (int64_t position = 0; position < 3; ++position)
    CHECK(make_batch(*source, position, 1).num_masked == masked[static_cast<size_t>(position)]);
}

TEST_CASE("documents and skipped sequences are those of the source that is filtered") {
  std::shared_ptr<const SequenceSource> source = make_eos_documents(make_synthetic_source(8, 5, 1), 3);
  source = make_skipping_source(source, SequenceSkip(std::vector<SkipRange>{{SkipUnit::sequences, 1, 2}}, 1));
  const auto filtered = make_filtered_source(source, {.repetition_max_count = 3});
  const auto expected = make_batch(*source, 0, 6), ours = make_batch(*filtered, 0, 6);
  CHECK(at::equal(ours.ids_BS, expected.ids_BS));
  CHECK(at::equal(ours.bounds, expected.bounds));
  CHECK(filtered->num_sequences() == source->num_sequences());
}

TEST_CASE("a filter that cannot be is refused by its key") {
  const auto problem = [](const InstanceFilter& filter) {
    const auto problems = validate(filter);
    REQUIRE(problems.size() <= 1);
    return problems.empty() ? std::string() : problems[0].substr(0, problems[0].find(": "));
  };
  const std::string key = "data.instance_filter.";
  CHECK(problem({}).empty());
  CHECK(problem(kPublished).empty());
  for (const int64_t count : {1, 2}) CHECK(problem({count, 1, 13}) == key + "repetition_max_count");
  CHECK(problem({32, 5, 4}) == key + "repetition_max_period");
  CHECK(problem({32, 5, 5}).empty());
  CHECK(problem({0, 2, 13}) == key + "repetition_max_count");  // periods of nothing
}
