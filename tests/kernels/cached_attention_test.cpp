#include "kernels/cached_attention.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>

#include <limits>

#include "kernels/attention.h"
#include "kernels/compare.h"

using Catch::Contains;
using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

/// A cache in which whatever is not stored would be seen.
KeyValues empty_cache(int64_t B, int64_t G, int64_t S, int64_t d, at::ScalarType dtype) {
  const auto nan = at::full({B, G, S, d}, std::numeric_limits<double>::quiet_NaN(), at::TensorOptions().dtype(dtype));
  return {nan.clone(), nan.clone()};
}

/// Queries, keys and values of whole sequences: column ranges of one fused projection, as in the model.
struct Sequences {
  at::Tensor q, k, v;  ///< [B, S, heads, d]
};
Sequences sequences_of(int64_t B, int64_t S, int64_t H, int64_t G, int64_t d, at::ScalarType dtype) {
  const at::Tensor fused = normal({B, S, H + 2 * G, d}, dtype, 21);
  return {fused.narrow(2, 0, H), fused.narrow(2, H, G), fused.narrow(2, H + G, G)};
}

/// The rows of the runs, one after another, of [B, S, heads, d].
at::Tensor rows_of(const at::Tensor& x, const std::vector<CachedRun>& runs) {
  std::vector<at::Tensor> parts;
  for (const auto& run : runs) parts.push_back(x[run.sequence].narrow(0, run.first, run.count));
  return at::cat(parts);
}

}  // namespace

TEST_CASE("attention to a cache equals attention of whole sequences, however they are divided into runs", "[kernels]") {
  struct Shape {
    int64_t H, G, d, window;
  };
  const auto dtype = GENERATE(from_range(kDtypes));
  const auto [H, G, d, window] =
      GENERATE(values<Shape>({{4, 4, 16, 0}, {6, 2, 8, 0}, {2, 1, 64, 5}, {4, 2, 16, 1}, {2, 2, 8, 1000}}));
  CAPTURE(dtype, H, G, d, window);
  constexpr int64_t kSequences = 3, kPositions = 150;
  const auto [q, k, v] = sequences_of(kSequences, kPositions, H, G, d, dtype);
  const auto whole = causal_attention({q, k, v}, {}, {window < kPositions ? window : 0, {}, {}}).y_BSHd;

  // A prompt of several blocks, one of a token; then single tokens beside the rest of a prompt; a sequence alone.
  const std::vector<std::vector<CachedRun>> steps{
      {{2, 0, 130}, {0, 0, 1}, {1, 0, 7}}, {{0, 1, 1}, {2, 130, 1}, {1, 7, 70}}, {{1, 77, 73}}, {{0, 2, 148}}};
  const auto cache = empty_cache(kSequences, G, kPositions, d, dtype);
  for (const auto& runs : steps) {
    store_keys_values(cache, rows_of(k, runs), rows_of(v, runs), runs);
    const auto y = cached_attention(rows_of(q, runs), cache, runs, window);
    CHECK(relative_error(y, rows_of(whole, runs)) < 2 * bound(dtype, kPositions + d, 2));
  }
}

TEST_CASE("a cache holds what was stored, and attention reads no key after a token's own", "[kernels]") {
  const auto [q, k, v] = sequences_of(1, 9, 2, 2, 4, at::kFloat);
  const std::vector<CachedRun> all{{1, 0, 9}}, third{{1, 3, 1}};
  const auto cache = empty_cache(2, 2, 9, 4, at::kFloat);
  store_keys_values(cache, k[0], v[0], all);
  CHECK(same_bits(cache.k_BGSd[1].transpose(0, 1).contiguous(), k[0].contiguous()));
  CHECK(same_bits(cache.v_BGSd[1].transpose(0, 1).contiguous(), v[0].contiguous()));
  CHECK(cache.k_BGSd[0].isnan().all().item<bool>());
  const auto before = cached_attention(q[0].narrow(0, 3, 1), cache, third);
  cache.k_BGSd.narrow(2, 4, 5).fill_(1e6);
  cache.v_BGSd.narrow(2, 4, 5).fill_(1e6);
  CHECK(same_bits(cached_attention(q[0].narrow(0, 3, 1), cache, third), before));
}

TEST_CASE("runs that do not fit the cache or the rows are refused", "[kernels]") {
  const auto [q, k, v] = sequences_of(1, 4, 4, 2, 8, at::kFloat);
  const auto rows = q[0], keys = k[0], values = v[0];
  const auto cache = empty_cache(2, 2, 6, 8, at::kFloat);
  const auto attend = [&](std::vector<CachedRun> runs) { return cached_attention(rows, cache, runs); };
  CHECK_THROWS_WITH(attend({{0, 3, 4}}), Contains("positions 3 to 6 of sequence 0"));
  CHECK_THROWS_WITH(attend({{2, 0, 4}}), Contains("sequence 2"));
  CHECK_THROWS_WITH(attend({{0, 0, 3}}), Contains("runs of 3 tokens in all, 4 rows"));
  const std::vector<CachedRun> runs{{0, 0, 4}};
  CHECK_THROWS_WITH(cached_attention(rows.to(at::kDouble), cache, runs), Contains("Double"));
  CHECK_THROWS_WITH(cached_attention(rows.narrow(1, 0, 3), cache, runs), Contains("do not divide 3 heads"));
  CHECK_THROWS_WITH(store_keys_values(cache, keys.narrow(1, 0, 1), values.narrow(1, 0, 1), runs),
                    Contains("1 and 1 key/value heads, in the cache 2"));
}
