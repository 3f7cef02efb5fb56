#include "kernels/embedding_index.h"

#include <algorithm>
#include <numeric>

#include "kernels/compare.h"

using namespace olmoe::kernels;

namespace {

/// The rows that were added to a sum, in this order.
using Rows = std::vector<int64_t>;

/// The two kernels of embedding.cu, with lists of rows in place of sums.
std::vector<Rows> rows_of_ids(const std::vector<int32_t>& ids, int64_t V) {
  const SortedIds sorted{ids.data(), static_cast<int64_t>(ids.size())};
  std::vector<Rows> of_id(V), coming_in(sorted.chunks()), leaving(sorted.chunks());
  const auto add = [&](int32_t id, const Rows& rows) {
    REQUIRE(of_id[id].empty());  // two writers of one row of the gradient would race
    of_id[id] = rows;
  };
  for (int64_t chunk = 0; chunk < sorted.chunks(); ++chunk) {
    Rows sum;
    for (int64_t i = sorted.chunk_begin(chunk); i < sorted.chunk_end(chunk); ++i) {
      sum.push_back(i);
      if (i + 1 < sorted.chunk_end(chunk) && ids[i + 1] == ids[i]) continue;
      if (sorted.began_before(chunk, i))
        coming_in[chunk] = sum;
      else if (sorted.continues(chunk, i))
        leaving[chunk] = sum;
      else
        add(ids[i], sum);
      sum.clear();
    }
  }
  for (int64_t chunk = 0; chunk < sorted.chunks(); ++chunk) {
    if (!sorted.owns_long_run(chunk)) continue;
    const int64_t first = sorted.chunk_end(chunk) - 1;
    Rows sum = leaving[chunk];
    for (int64_t c = chunk + 1; c <= sorted.last_chunk(first); ++c)
      sum.insert(sum.end(), coming_in[c].begin(), coming_in[c].end());
    add(ids[first], sum);
  }
  return of_id;
}

/// Sorted ids of runs of the given lengths: 0, 2, 4, ...
std::vector<int32_t> runs(const std::vector<int64_t>& lengths) {
  std::vector<int32_t> ids;
  for (size_t run = 0; run < lengths.size(); ++run) ids.insert(ids.end(), lengths[run], static_cast<int32_t>(2 * run));
  return ids;
}

}  // namespace

TEST_CASE("each id gets all its rows, in order, from one writer", "[kernels]") {
  constexpr int64_t C = SortedIds::kChunkRows;
  const auto lengths = GENERATE(from_range(std::vector<std::vector<int64_t>>{
      {1},
      {C},
      {C + 1},
      {C - 1, 1, 1},
      {C, C, C},
      {C - 1, 2, C - 1},
      {1, 3 * C, 1},
      {C / 2, 2 * C, C / 2, 5},
      {5, C, C, 7, 100 * C + 3, 1, 1},
      {1000 * C},
      {1, 1, 1, 1, 1, 2, 3, 1, 1, 1, 1, 1, 4, 1, 1, 9, 1, 30, 1, 1, 1, 1, 2, 2, 2, 40, 17, 16, 15, 14, 1}}));
  CAPTURE(lengths);
  const auto ids = runs(lengths);
  const int64_t V = 2 * static_cast<int64_t>(lengths.size());
  const auto of_id = rows_of_ids(ids, V);
  int64_t next = 0;
  for (size_t run = 0; run < lengths.size(); ++run) {
    Rows expected(lengths[run]);
    std::iota(expected.begin(), expected.end(), next);
    CHECK(of_id[2 * run] == expected);
    CHECK(of_id[2 * run + 1].empty());
    next += lengths[run];
  }
}

TEST_CASE("random ids: each gets all its rows, in order, from one writer", "[kernels]") {
  const int64_t V = GENERATE(1, 2, 13, 400), N = GENERATE(1, 15, 16, 17, 333, 2048);
  CAPTURE(V, N);
  const at::Tensor values = testing::normal({N}, at::kDouble, 21).abs();
  std::vector<int32_t> ids(N);
  for (int64_t n = 0; n < N; ++n)  // low ids are the frequent ones, as in text
    ids[n] = std::min<int32_t>(static_cast<int32_t>(V - 1),
                               static_cast<int32_t>(values.data_ptr<double>()[n] * static_cast<double>(V) / 4));
  std::sort(ids.begin(), ids.end());
  const auto of_id = rows_of_ids(ids, V);
  std::vector<Rows> expected(V);
  for (int64_t n = 0; n < N; ++n) expected[ids[n]].push_back(n);
  CHECK(of_id == expected);
}

TEST_CASE("id_bits is the number of bits of the largest id", "[kernels]") {
  CHECK(id_bits(1) == 1);
  CHECK(id_bits(2) == 1);
  CHECK(id_bits(3) == 2);
  CHECK(id_bits(256) == 8);
  CHECK(id_bits(257) == 9);
  CHECK(id_bits(50304) == 16);
  CHECK(id_bits(int64_t{1} << 31) == 31);
}
