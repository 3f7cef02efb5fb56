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
  if (stated_.xxh3_128.empty())
    verify_range(0, stated_.header_bytes, stated_.header_hash);
  else
    verify_whole();
  try {
    tensors_ = reading([&] { return std::make_unique<safetensors::File>(path_); });
  } catch (const CheckpointError&) {
    throw;
  } catch (const Error& error) {
    throw DamagedCheckpoint(error.what());
  }
}

bool VerifiedFile::holds(std::span<const std::byte> part) const {
  const auto all = tensors_->all_bytes();
  return part.data() >= all.data() && part.data() + part.size() <= all.data() + all.size();
}

void VerifiedFile::verify(std::span<const std::byte> part) {
  ENSURE(holds(part), "{} bytes that are not of {}", part.size(), path_);
  if (part.empty() || verified_.empty()) return;
  const auto data = tensors_->all_bytes().subspan(static_cast<size_t>(stated_.header_bytes));
  const int64_t begin = part.data() - data.data(), end = begin + std::ssize(part);
  for (int64_t b = std::max<int64_t>(0, begin / kBlock); b < ceil_div(end, kBlock); ++b) {
    const auto block = static_cast<size_t>(b);
    if (verified_[block]) continue;
    const int64_t first = stated_.header_bytes + b * kBlock;
    verify_range(first, std::min(first + kBlock, stated_.size_bytes), stated_.block_hashes[block]);
    verified_[block] = true;
  }
}

void VerifiedFile::verify_range(int64_t begin, int64_t end, const std::string& hash) {
  std::vector<std::byte> bytes(static_cast<size_t>(end - begin));
  bytes.resize(reading([&] { return FileDescriptor(path_, O_RDONLY).read_at(begin, bytes); }));
  verified_bytes_ += std::ssize(bytes);
  if (hash_of(bytes) != hash)
    throw DamagedCheckpoint(
        fmt::format("{}: damaged, the hash of bytes {} to {} is not that in the manifest", path_, begin, end));
}

void VerifiedFile::verify_whole() {
  verified_bytes_ += stated_.size_bytes;
  if (reading([&] { return hash_file(path_); }) != stated_.xxh3_128)
    throw DamagedCheckpoint(path_ + ": damaged, its hash is not that in the manifest");
}

}  // namespace olmoe
