#include "data/file_sample.h"

namespace olmoe {
namespace {

constexpr int64_t kSampledBlocks = 16;
constexpr int64_t kBlockBytes = 4096;

}  // namespace

FileSample FileSample::read(const DataFile& file, int64_t size_bytes) {
  FileSample sample;
  const auto add = [&](int64_t offset, int64_t count) {
    sample.blocks.push_back({offset, std::vector<std::byte>(static_cast<size_t>(count))});
    file.read(offset, sample.blocks.back().bytes);
  };
  if (size_bytes <= kSampledBlocks * kBlockBytes) {
    add(0, size_bytes);
    return sample;
  }
  const int64_t last = size_bytes - kBlockBytes;
  const int64_t stride = last / (kSampledBlocks - 1);
  for (int64_t i = 0; i + 1 < kSampledBlocks; ++i) add(i * stride, kBlockBytes);
  add(last, kBlockBytes);
  return sample;
}

void FileSample::hash(Hasher& hasher) const {
  for (const Block& block : blocks) hasher.update(block.bytes);
}

}  // namespace olmoe
