#include "data/sequence_skip.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "support/catch.h"

using namespace olmoe;

namespace {

constexpr int64_t kBatch = 3;

/// The positions that stay, of the first `count` ones, by removing range after range from a list.
std::vector<int64_t> left_by_hand(const std::vector<SkipRange>& ranges, int64_t count) {
  std::vector<int64_t> stream(static_cast<size_t>(count));
  std::iota(stream.begin(), stream.end(), 0);
  for (const auto& [unit, first, last] : ranges) {
    if (unit == SkipUnit::sequences) {
      std::erase_if(stream, [&, from = first, to = last](int64_t at) { return at >= from && at <= to; });
    } else {
      const auto size = std::ssize(stream);
      stream.erase(stream.begin() + std::min((first - 1) * kBatch, size),
                   stream.begin() + std::min(last * kBatch, size));
    }
  }
  return stream;
}

std::vector<int64_t> positions_of(const SequenceSkip& skip, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t n = 0; n < count; ++n) out.push_back(skip.position(n));
  return out;
}

std::vector<SkipRange> random_ranges(std::mt19937& random) {
  const auto below = [&](int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(random); };
  std::vector<SkipRange> ranges;
  for (int64_t i = below(5); i > 0; --i) {
    const auto unit = below(2) == 0 ? SkipUnit::sequences : SkipUnit::steps;
    const int64_t first = unit == SkipUnit::sequences ? below(40) : 1 + below(14);
    ranges.push_back({unit, first, first + below(6)});
  }
  return ranges;
}

}  // namespace

TEST_CASE("skipped ranges leave the stream that removing them one after the other from a list leaves") {
  std::mt19937 random(15);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto ranges = random_ranges(random);
    const SequenceSkip skip(ranges, kBatch);
    const auto expected = left_by_hand(ranges, 400);
    const auto count = std::ssize(expected) / 2;  // the end of the list is the end of no stream
    REQUIRE(positions_of(skip, count) == std::vector(expected.begin(), expected.begin() + count));
    const auto& all = skip.positions();
    for (size_t i = 1; i < all.size(); ++i) REQUIRE(all[i - 1].end < all[i].begin);
  }
}

TEST_CASE("two sets of skipped ranges differ first where their streams do") {
  std::mt19937 random(16);
  int equal = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    auto a = random_ranges(random), b = random_ranges(random);
    if (trial % 4 == 0) b = a;
    if (trial % 4 == 1) {  // as after going back: the same, and one more
      b = a;
      b.push_back({SkipUnit::steps, 1 + trial % 13, 3 + trial % 13});
    }
    const SequenceSkip one(a, kBatch), other(b, kBatch);
    const auto ours = positions_of(one, 300), theirs = positions_of(other, 300);
    const auto first = std::ranges::mismatch(ours, theirs).in1;
    const auto expected = first == ours.end() ? std::nullopt : std::optional<int64_t>(first - ours.begin());
    REQUIRE(one.first_difference(other) == expected);
    REQUIRE(other.first_difference(one) == expected);
    if (!expected) ++equal;
  }
  CHECK(equal >= 500);
}

TEST_CASE("a stream without skipped positions reads the others, and is called what the whole one is called") {
  const std::shared_ptr<const SequenceSource> whole = make_synthetic_source(5, 50, 7);
  const std::vector<SkipRange> ranges{{SkipUnit::steps, 2, 2}, {SkipUnit::sequences, 8, 8}};
  const auto rest = make_skipping_source(whole, SequenceSkip(ranges, kBatch));
  const std::vector<int64_t> left{0, 1, 2, 6, 7, 9, 10};
  std::vector<int64_t> ours(5), expected(5);
  for (size_t n = 0; n < left.size(); ++n) {
    rest->read(static_cast<int64_t>(n), ours);
    whole->read(left[n], expected);
    CHECK(ours == expected);
  }
  CHECK(rest->fingerprint() == whole->fingerprint());
}

TEST_CASE("ranges that end before they begin, and step 0, are refused by key") {
  const std::vector<SkipRange> ranges{
      {SkipUnit::steps, 0, 2}, {SkipUnit::sequences, 5, 4}, {SkipUnit::steps, 1, 1}, {SkipUnit::sequences, 0, 0}};
  CHECK(validate(ranges) == std::vector<std::string>{"data.skip[0].first: steps are counted from 1",
                                                     "data.skip[1].last: 4 is below first: 5"});
}

TEST_CASE("skipped steps are those of a batch-size warm-up") {
  const BatchSizes sizes(5, {{2, 1}, {4, 3}});  // positions 0, 1, 2 to 4, 5 to 7, 8 to 12, ...
  using Positions = SequenceSkip::Positions;
  const std::vector<SkipRange> one{{SkipUnit::steps, 2, 3}}, two{{SkipUnit::steps, 4, 5}};
  CHECK(SequenceSkip(one, sizes).positions() == std::vector<Positions>{{1, 5}});
  CHECK(SequenceSkip(two, sizes).positions() == std::vector<Positions>{{5, 13}});
}
