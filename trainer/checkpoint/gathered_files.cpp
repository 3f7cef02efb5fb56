#include "trainer/checkpoint/gathered_files.h"

#include <algorithm>
#include <array>
#include <ranges>
#include <span>

#include "parallel/agreement.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace olmoe {
namespace {

constexpr size_t kHashDigits = 32;

/// A hash in a record of bytes.
struct Digits {
  std::array<char, kHashDigits> digits{};
  Digits() = default;
  explicit Digits(const std::string& hash) { std::ranges::copy(hash | std::views::take(kHashDigits), digits.begin()); }
  std::string str() const { return std::string(digits.data(), kHashDigits); }
};

}  // namespace

std::vector<Manifest::ShardFile> gather_files(Communicator& group, const Manifest::ShardFile& mine) {
  struct Record {
    int64_t size_bytes, header_bytes;
    Digits header;
  };
  std::vector<Manifest::ShardFile> files;
  const Record record{mine.size_bytes, mine.header_bytes, Digits(mine.header_hash)};
  for (const auto& [size_bytes, header_bytes, header] : gather_records<Record>(group, {&record, 1}))
    files.push_back({shard_name(static_cast<int>(files.size())), size_bytes, header_bytes, header.str(), {}});
  size_t most = 0;
  for (const auto& file : files) most = std::max(most, file.num_blocks());
  std::vector<Digits> hashes(mine.block_hashes.begin(), mine.block_hashes.end());
  hashes.resize(most);
  const auto all = gather_records<Digits>(group, hashes);
  for (size_t rank = 0; rank < files.size(); ++rank)
    for (const auto& hash : std::span(all).subspan(rank * most, files[rank].num_blocks()))
      files[rank].block_hashes.emplace_back(hash.digits.data(), kHashDigits);
  return files;
}

}  // namespace olmoe
