#include "data/sequence_order.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

std::vector<int64_t> epoch_of(const SequenceOrder& order, int64_t num_sequences, int64_t epoch) {
  std::vector<int64_t> sequences(static_cast<size_t>(num_sequences));
  for (int64_t i = 0; i < num_sequences; ++i) sequences[static_cast<size_t>(i)] = order.at(epoch * num_sequences + i);
  return sequences;
}

bool is_permutation_of_all(const std::vector<int64_t>& sequences) {
  std::vector<bool> seen(sequences.size(), false);
  for (const int64_t i : sequences) {
    if (i < 0 || i >= std::ssize(sequences) || seen[static_cast<size_t>(i)]) return false;
    seen[static_cast<size_t>(i)] = true;
  }
  return true;
}

/// (chi^2 - degrees of freedom) / its standard deviation against equal counts: about standard
/// normal if uniform.
double chi_square_score(const std::vector<int64_t>& counts) {
  const double expected = std::accumulate(counts.begin(), counts.end(), 0.0) / static_cast<double>(counts.size());
  double chi_square = 0;
  for (const int64_t count : counts)
    chi_square += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
  const auto freedom = static_cast<double>(counts.size() - 1);
  return (chi_square - freedom) / std::sqrt(2 * freedom);
}

/// Counts of (position in the epoch, sequence), both divided into `bins` equal ranges.
std::vector<int64_t> joint_counts(const std::vector<int64_t>& sequences, int64_t bins) {
  std::vector<int64_t> counts(static_cast<size_t>(bins * bins), 0);
  const int64_t n = std::ssize(sequences);
  for (int64_t i = 0; i < n; ++i)
    ++counts[static_cast<size_t>(i * bins / n * bins + sequences[static_cast<size_t>(i)] * bins / n)];
  return counts;
}

}  // namespace

TEST_CASE("every epoch is a permutation, for every size") {
  for (int64_t n = 1; n <= 2000; ++n) {
    const SequenceOrder order(n, 6198);
    const bool complete = is_permutation_of_all(epoch_of(order, n, n % 5));
    INFO("sequences: " << n);
    REQUIRE(complete);
  }
}

TEST_CASE("every epoch of a larger size is a permutation") {
  const int64_t n = GENERATE(65535, 65536, 65537, 262144, 262145, 1000003);
  CHECK(is_permutation_of_all(epoch_of(SequenceOrder(n, 1), n, 0)));
}

TEST_CASE("orders too large for memory stay in range") {
  const int64_t n = GENERATE(int64_t{1} << 40, (int64_t{1} << 40) + 1, (int64_t{1} << 62) + 1);
  const SequenceOrder order(n, 5);
  std::vector<int64_t> sequences;
  for (int64_t i = 0; i < 1000; ++i) sequences.push_back(order.at(n - 1 - i));
  CHECK(*std::min_element(sequences.begin(), sequences.end()) >= 0);
  CHECK(*std::max_element(sequences.begin(), sequences.end()) < n);
  std::sort(sequences.begin(), sequences.end());
  CHECK(std::unique(sequences.begin(), sequences.end()) == sequences.end());
}

TEST_CASE("sequences are spread evenly over the epoch") {
  const int64_t n = GENERATE(20000, 65536, 70000);
  const auto seed = GENERATE(uint64_t{0}, uint64_t{1}, uint64_t{6198});
  const auto sequences = epoch_of(SequenceOrder(n, seed), n, 0);
  CHECK(std::abs(chi_square_score(joint_counts(sequences, 32))) < 5);

  // The step from one sequence to the next must not repeat either.
  std::vector<int64_t> differences;
  for (size_t i = 0; i < sequences.size(); ++i)
    differences.push_back((sequences[(i + 1) % sequences.size()] - sequences[i] + n) % n);
  CHECK(std::abs(chi_square_score(joint_counts(differences, 32))) < 5);
}

TEST_CASE("the evenness test fails on the identity and on a stride") {
  std::vector<int64_t> identity(20000), stride(20000);
  std::iota(identity.begin(), identity.end(), 0);
  for (int64_t i = 0; i < 20000; ++i) stride[static_cast<size_t>(i)] = i * 7919 % 20000;
  CHECK(std::abs(chi_square_score(joint_counts(identity, 32))) > 5);
  CHECK(std::abs(chi_square_score(joint_counts(stride, 32))) > 5);
}

TEST_CASE("small orders reach every permutation equally often") {
  const int64_t n = GENERATE(2, 3, 4, 5);
  std::map<std::vector<int64_t>, int64_t> times;
  std::vector<int64_t> identity(static_cast<size_t>(n));
  std::iota(identity.begin(), identity.end(), 0);
  do times[identity] = 0;
  while (std::next_permutation(identity.begin(), identity.end()));

  const SequenceOrder order(n, 11);
  for (int64_t epoch = 0; epoch < 20000; ++epoch) ++times.at(epoch_of(order, n, epoch));
  std::vector<int64_t> counts;
  for (const auto& entry : times) counts.push_back(entry.second);
  CHECK(std::abs(chi_square_score(counts)) < 5);
}

TEST_CASE("the order depends on epoch and seed alone") {
  const SequenceOrder order(1000, 7), same(1000, 7), other(1000, 8);
  const auto first = epoch_of(order, 1000, 0);
  CHECK(epoch_of(same, 1000, 0) == first);
  const auto agreements = [&first](const std::vector<int64_t>& sequences) {
    int64_t equal = 0;
    for (size_t i = 0; i < first.size(); ++i) equal += first[i] == sequences[i];
    return equal;
  };
  // Two random permutations agree at one position on average, at ten almost never.
  CHECK(agreements(epoch_of(order, 1000, 1)) < 10);
  CHECK(agreements(epoch_of(other, 1000, 0)) < 10);
}

TEST_CASE("an empty order and a negative position are refused") {
  CHECK_THROWS_AS(SequenceOrder(0, 1), Error);
  CHECK_THROWS_AS(SequenceOrder(10, 1).at(-1), Error);
}
