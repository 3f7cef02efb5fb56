#include "trainer/checkpoint/verified_file.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/hash.h"
#include "core/integers.h"

namespace olmoe {
namespace {

constexpr int64_t kBlock = BlockHasher::kBlockBytes;

void check_size(const std::string& path, int64_t stated) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error == std::errc::no_such_file_or_directory)
    throw DamagedCheckpoint(fmt::format("{}: {}", path, error.message()));
  if (error) throw CheckpointError(fmt::format("{}: {}", path, error.message()));
  if (static_cast<int64_t>(size) != stated)
    throw DamagedCheckpoint(fmt::format("{}: {} bytes, but the manifest says {}", path, size, stated));
}

/// Runs `work`; what the system refuses becomes a CheckpointError.
template <class Work>
auto reading(const Work& work) {
  try {
    return work();
  } catch (const FileError& error) {
    throw CheckpointError(error.what());
  }
}

}  // namespace

VerifiedFile::VerifiedFile(const std::string& folder, const Manifest::ShardFile& stated)
    : path_(folder + "/" + stated.name), stated_(stated), verified_(stated.block_hashes.size()) {
  check_size(path_, stated_.size_bytes);
  if (!stated_.xxh3_128.empty()) verify_whole();
  verify_blocks(0, std::min<int64_t>(stated_.size_bytes, 1));
  try {
    tensors_ = reading([&] { return std::make_unique<safetensors::File>(path_); });
  } catch (const CheckpointError&) {
    throw;
  } catch (const Error& error) {
    throw DamagedCheckpoint(error.what());
  }
  verify_blocks(0, tensors_->header_bytes());
}

bool VerifiedFile::holds(std::span<const std::byte> part) const {
  const auto all = tensors_->all_bytes();
  return part.data() >= all.data() && part.data() + part.size() <= all.data() + all.size();
}

void VerifiedFile::verify(std::span<const std::byte> part) {
  ENSURE(holds(part), "{} bytes that are not of {}", part.size(), path_);
  const auto begin = part.data() - tensors_->all_bytes().data();
  verify_blocks(begin, begin + std::ssize(part));
}

void VerifiedFile::verify_blocks(int64_t begin, int64_t end) {
  if (begin == end || verified_.empty()) return;
  std::vector<std::byte> bytes;
  std::unique_ptr<FileDescriptor> file;
  BlockHasher hasher;
  for (int64_t b = begin / kBlock; b < ceil_div(end, kBlock); ++b) {
    const auto block = static_cast<size_t>(b);
    if (verified_[block]) continue;
    reading([&] {
      if (!file) file = std::make_unique<FileDescriptor>(path_, O_RDONLY);
      bytes.resize(static_cast<size_t>(kBlock));
      bytes.resize(file->read_at(b * kBlock, bytes));
    });
    hasher.update(bytes);
    verified_bytes_ += std::ssize(bytes);
    if (hasher.finish() != std::vector{stated_.block_hashes[block]})
      throw DamagedCheckpoint(fmt::format("{}: damaged, the hash of bytes {} to {} is not that in the manifest", path_,
                                          b * kBlock, std::min((b + 1) * kBlock, stated_.size_bytes)));
    verified_[block] = true;
  }
}

void VerifiedFile::verify_whole() {
  verified_bytes_ += stated_.size_bytes;
  if (reading([&] { return hash_file(path_); }) != stated_.xxh3_128)
    throw DamagedCheckpoint(path_ + ": damaged, its hash is not that in the manifest");
}

}  // namespace olmoe
