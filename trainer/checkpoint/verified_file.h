#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/files/file_descriptor.h"
#include "core/files/safetensors.h"
#include "trainer/checkpoint/checkpoint_manifest.h"

namespace olmoe {

/// A shard file of a checkpoint, whose bytes are read and verified block by block: what is handed out is the memory
/// that was hashed, and a rank reads no more than the blocks that hold what it needs. A file of format version 1 has
/// one hash, and is verified whole by the constructor.
class VerifiedFile {
 public:
  /// Verifies the size and the header. Throws DamagedCheckpoint where the file is missing or not what was written, and
  /// CheckpointError where the system refuses to read it.
  VerifiedFile(const std::string& folder, const Manifest::ShardFile& stated);
  const safetensors::File& tensors() const { return *tensors_; }
  /// Whether `part` is a range of this file's mapping.
  bool holds(std::span<const std::byte> part) const;
  /// Reads `part`, a range of the mapping, into `out`, which is as long. The mapping says where the bytes are; they are
  /// read from the file, so that an error of the disk is an exception. Throws as the constructor does, and then `out`
  /// is not to be used. A block that `part` holds in part is kept for the next call.
  void read(std::span<const std::byte> part, std::span<std::byte> out);
  /// Frees the kept block, 4 MiB.
  void drop_kept();
  /// Bytes that were read, the header's included.
  int64_t read_bytes() const { return read_bytes_; }

 private:
  void read_range(int64_t begin, std::span<std::byte> out);
  void check_hash(int64_t begin, std::span<const std::byte> bytes, const std::string& hash) const;
  void read_block(size_t block, std::span<std::byte> out);
  std::span<const std::byte> kept(size_t block, int64_t size);

  std::string path_;
  Manifest::ShardFile stated_;
  int64_t read_bytes_ = 0;
  std::unique_ptr<FileDescriptor> file_;
  std::unique_ptr<safetensors::File> tensors_;
  std::vector<std::byte> kept_;  // a block, or empty
  size_t kept_block_ = 0;
};

}  // namespace olmoe
