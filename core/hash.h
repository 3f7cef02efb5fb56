#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace olmoe {

/// XXH3 of 64 bits, for keys and seeds.
uint64_t hash64(std::string_view text, uint64_t seed = 0);

/// XXH3 of 128 bits over a stream of bytes, for files.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  void update(std::span<const std::byte> bytes);
  std::string hex() const;  ///< 32 digits, as xxhsum prints them

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace olmoe
