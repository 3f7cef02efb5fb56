#include "core/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace olmoe {

uint64_t hash64(std::string_view text, uint64_t seed) { return XXH3_64bits_withSeed(text.data(), text.size(), seed); }

struct Hasher::Impl {
  struct Free {
    void operator()(XXH3_state_t* memory) const { XXH3_freeState(memory); }
  };
  std::unique_ptr<XXH3_state_t, Free> state{XXH3_createState()};
};

Hasher::Hasher() : impl_(std::make_unique<Impl>()) {
  ENSURE(impl_->state, "no memory for a hash");
  reset();
}

void Hasher::reset() { ENSURE(XXH3_128bits_reset(impl_->state.get()) == XXH_OK, "cannot reset a hash"); }

Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
  ENSURE(XXH3_128bits_update(impl_->state.get(), bytes.data(), bytes.size()) == XXH_OK, "cannot hash {} bytes",
         bytes.size());
}

std::string Hasher::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(impl_->state.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string hash_of(std::span<const std::byte> bytes) {
  Hasher hasher;
  hasher.update(bytes);
  return hasher.hex();
}

void BlockHasher::update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(bytes.size(), static_cast<size_t>(kBlockBytes - in_block_)));
    block_.update(part);
    in_block_ += static_cast<int64_t>(part.size());
    bytes = bytes.subspan(part.size());
    if (in_block_ == kBlockBytes) end_block();
  }
}

std::vector<std::string> BlockHasher::finish() {
  if (in_block_ > 0) end_block();
  return std::exchange(hashes_, {});
}

void BlockHasher::end_block() {
  hashes_.push_back(block_.hex());
  block_.reset();
  in_block_ = 0;
}

}  // namespace olmoe
