#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "trainer/checkpoint/checkpoint_manifest.h"

namespace olmoe {

/// A shard file of a checkpoint, mapped read-only, whose bytes are verified block by block before they are used: a rank
/// reads no more than the blocks that hold what it needs. A file of format version 1 has one hash, and is verified
/// whole at the first use.
class VerifiedFile {
 public:
  /// Verifies the size and the header. Throws DamagedCheckpoint where the file is missing or not what was written, and
  /// CheckpointError where the system refuses to read it.
  VerifiedFile(const std::string& folder, const Manifest::ShardFile& stated);
  const safetensors::File& tensors() const { return *tensors_; }
  /// Whether `part` is a range of this file's mapping.
  bool holds(std::span<const std::byte> part) const;
  /// Verifies the blocks that hold `part`, a range of the mapping; each block once. Throws as the constructor does.
  void verify(std::span<const std::byte> part);
  /// Bytes that were read to be verified, the header's included.
  int64_t verified_bytes() const { return verified_bytes_; }

 private:
  void verify_range(int64_t begin, int64_t end, const std::string& hash);
  void verify_whole();

  std::string path_;
  Manifest::ShardFile stated_;
  std::vector<bool> verified_;  // by block
  int64_t verified_bytes_ = 0;
  std::unique_ptr<safetensors::File> tensors_;
};

}  // namespace olmoe
