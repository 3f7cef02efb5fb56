#include "trainer/checkpoint/verified_file.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "core/files/files.h"
#include "core/hash.h"

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
    : path_(folder + "/" + stated.name), stated_(stated) {
  check_size(path_, stated_.size_bytes);
  file_ = reading([&] { return std::make_unique<FileDescriptor>(path_, O_RDONLY); });
  if (stated_.xxh3_128.empty()) {
    std::vector<std::byte> header(static_cast<size_t>(stated_.header_bytes));
    read_range(0, header);
    check_hash(0, header, stated_.header_hash);
  } else if (read_bytes_ += stated_.size_bytes; reading([&] { return hash_file(path_); }) != stated_.xxh3_128) {
    throw DamagedCheckpoint(path_ + ": damaged, its hash is not that in the manifest");
  }
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

void VerifiedFile::read(std::span<const std::byte> part, std::span<std::byte> out) {
  ENSURE(holds(part) && out.size() == part.size(), "{} bytes of {} into {}", part.size(), path_, out.size());
  const int64_t begin = part.data() - tensors_->all_bytes().data(), end = begin + std::ssize(part);
  if (stated_.block_hashes.empty()) return read_range(begin, out);
  constexpr int64_t kAhead = 4 * kBlock;  // the disk reads while blocks before are hashed
  file_->read_ahead(begin, std::min(kAhead, end - begin));
  for (int64_t at = begin; at < end;) {
    const int64_t block = (at - stated_.header_bytes) / kBlock;
    const int64_t first = stated_.header_bytes + block * kBlock, last = std::min(first + kBlock, stated_.size_bytes);
    const int64_t to = std::min(last, end), ahead = at + kAhead;
    if (ahead < end) file_->read_ahead(ahead, std::min(to - at, end - ahead));
    const auto target = out.subspan(static_cast<size_t>(at - begin), static_cast<size_t>(to - at));
    if (at == first && to == last)
      read_block(static_cast<size_t>(block), target);
    else
      std::ranges::copy(
          kept(static_cast<size_t>(block), last - first).subspan(static_cast<size_t>(at - first), target.size()),
          target.begin());
    at = to;
  }
}

void VerifiedFile::drop_kept() { kept_ = {}; }

/// The whole of a block, read and verified unless it was the last one that this function read.
std::span<const std::byte> VerifiedFile::kept(size_t block, int64_t size) {
  if (kept_.empty() || kept_block_ != block) {
    std::vector<std::byte> bytes(static_cast<size_t>(size));
    read_block(block, bytes);
    kept_ = std::move(bytes);
    kept_block_ = block;
  }
  return kept_;
}

void VerifiedFile::read_block(size_t block, std::span<std::byte> out) {
  const int64_t begin = stated_.header_bytes + static_cast<int64_t>(block) * kBlock;
  read_range(begin, out);
  check_hash(begin, out, stated_.block_hashes[block]);
}

void VerifiedFile::read_range(int64_t begin, std::span<std::byte> out) {
  const size_t size = reading([&] { return file_->read_at(begin, out); });
  read_bytes_ += static_cast<int64_t>(size);
  if (size != out.size())
    throw DamagedCheckpoint(fmt::format("{}: it ends at byte {}", path_, begin + static_cast<int64_t>(size)));
}

void VerifiedFile::check_hash(int64_t begin, std::span<const std::byte> bytes, const std::string& hash) const {
  if (hash_of(bytes) != hash)
    throw DamagedCheckpoint(fmt::format("{}: damaged, the hash of bytes {} to {} is not that in the manifest", path_,
                                        begin, begin + std::ssize(bytes)));
}

}  // namespace olmoe
