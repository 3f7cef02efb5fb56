#include "parallel/joined_hashes.h"

#include <ATen/ops/zeros.h>

#include <charconv>

#include "core/error.h"
#include "core/hash.h"

namespace olmoe {
namespace {

constexpr size_t kHalf = 16;  // hex digits

int64_t parse_half(std::string_view digits) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + kHalf, number, 16);
  ENSURE(error == std::errc() && end == digits.data() + kHalf, "{} is no half of a hash", digits.substr(0, kHalf));
  return static_cast<int64_t>(number);
}

}  // namespace

std::string join_hashes(Communicator& world, const std::vector<std::string>& hashes) {
  const auto files = std::ssize(hashes);
  auto halves_2n = at::zeros({2 * files}, at::kLong);  // all ranks but one add zeros
  auto* const halves = halves_2n.mutable_data_ptr<int64_t>();
  for (int64_t f = 0; f < files; ++f) {
    const auto& hash = hashes[static_cast<size_t>(f)];
    if (hash.empty()) continue;
    ENSURE(hash.size() == 2 * kHalf, "a hash of {} digits", hash.size());
    halves[2 * f] = parse_half(hash);
    halves[2 * f + 1] = parse_half(std::string_view(hash).substr(kHalf));
  }
  world.all_reduce(halves_2n);
  Hasher hasher;
  hasher.update(std::as_bytes(std::span<const int64_t>(halves, static_cast<size_t>(2 * files))));
  return hasher.hex();
}

}  // namespace olmoe
