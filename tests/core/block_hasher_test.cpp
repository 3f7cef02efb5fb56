// Hashes of blocks: what a checkpoint verifies alone.
#include <random>

#include "core/hash.h"
#include "support/catch.h"

using namespace olmoe;

TEST_CASE("a stream has one hash for each block of 4 MiB and one for the rest, however it is cut") {
  constexpr int64_t kBlock = BlockHasher::kBlockBytes;
  std::vector<std::byte> bytes(static_cast<size_t>(2 * kBlock + 5));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 2654435761U >> 13);
  const std::span all(bytes);
  const auto block = [&](int64_t begin, int64_t size) {
    return hash_of(all.subspan(static_cast<size_t>(begin), static_cast<size_t>(size)));
  };
  const std::vector expected{block(0, kBlock), block(kBlock, kBlock), block(2 * kBlock, 5)};
  BlockHasher hasher;
  std::mt19937 random(1);
  for (int trial = 0; trial < 3; ++trial) {
    for (auto rest = all; !rest.empty();) {
      const auto part = rest.first(std::min(rest.size(), static_cast<size_t>(1 + random() % (3U << 20))));
      hasher.update(part);
      rest = rest.subspan(part.size());
    }
    CHECK(hasher.finish() == expected);
  }
  hasher.update(all);
  CHECK(hasher.finish() == expected);
  hasher.update(all.first(static_cast<size_t>(kBlock)));
  CHECK(hasher.finish() == std::vector{expected[0]});  // no empty block follows
  CHECK(hasher.finish().empty());
}
