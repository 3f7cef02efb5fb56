#include "core/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

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
  ENSURE(impl_->state && XXH3_128bits_reset(impl_->state.get()) == XXH_OK, "no memory for a hash");
}

Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
  ENSURE(XXH3_128bits_update(impl_->state.get(), bytes.data(), bytes.size()) == XXH_OK, "cannot hash {} bytes",
         bytes.size());
}

std::string Hasher::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(impl_->state.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace olmoe
