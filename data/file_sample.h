#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/hash.h"
#include "data/data_file.h"

namespace olmoe {

/// The bytes of a token file that are checked at start and compared when a run resumes: all of a file up to 64 KiB; of
/// a larger one 16 blocks of 4 KiB, evenly spaced from its first byte to its last. A change between the blocks is not
/// detected.
struct FileSample {
  struct Block {
    int64_t offset;
    std::vector<std::byte> bytes;
  };
  std::vector<Block> blocks;

  static FileSample read(const DataFile& file, int64_t size_bytes);
  void hash(Hasher& hasher) const;
};

}  // namespace olmoe
