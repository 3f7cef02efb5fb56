#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
  void reset();             ///< to the hash of no bytes

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Hasher::hex() of some bytes.
std::string hash_of(std::span<const std::byte> bytes);

/// Hasher::hex() of each block of a stream of bytes, so that a part of a file can be verified alone.
class BlockHasher {
 public:
  static constexpr int64_t kBlockBytes = 4 << 20;  ///< of all blocks but the last, which may be shorter
  void update(std::span<const std::byte> bytes);
  /// The hashes in the order of the stream; none of an empty one. Ends the stream: the next update() begins another.
  std::vector<std::string> finish();

 private:
  void end_block();

  Hasher block_;
  int64_t in_block_ = 0;  // bytes
  std::vector<std::string> hashes_;
};

}  // namespace olmoe
