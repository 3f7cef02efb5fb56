// The bytes of tensors, copied through one staging buffer of bounded size.
#include "trainer/checkpoint/staged_bytes.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include <set>
#include <string>

#include "core/error.h"
#include "support/catch.h"

using namespace olmoe;

TEST_CASE("all bytes arrive in order, in pieces of one buffer") {
  constexpr int64_t kPiece = 24;
  StagedBytes staged(kPiece);
  std::set<const std::byte*> buffers;
  const auto dtype = GENERATE(at::kFloat, at::kDouble, at::kBFloat16);
  for (const int64_t n : {0, 1, 3, 6, 100}) {
    const auto whole = at::arange(n + 4, dtype), flat = whole.narrow(0, 2, n);
    std::string bytes;
    staged.read(flat, [&](std::span<const std::byte> piece) {
      CHECK(static_cast<int64_t>(piece.size()) <= kPiece);
      CHECK_FALSE(piece.empty());
      buffers.insert(piece.data());
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    });
    CHECK(bytes == std::string(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()));
  }
  CHECK(buffers.size() == 1);
}

TEST_CASE("what is no flat run of bytes, and a piece of nothing, are refused") {
  StagedBytes staged(8);
  const auto nothing = [](std::span<const std::byte>) {};
  CHECK_THROWS_AS(staged.read(at::empty({2, 3}), nothing), Error);
  CHECK_THROWS_AS(staged.read(at::empty({6}).slice(0, 0, 6, 2), nothing), Error);
  CHECK_THROWS_AS(StagedBytes(0), Error);
}
