#include "trainer/checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/hash.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace olmoe {
namespace {

constexpr std::array<std::string_view, 5> kKinds{"weight", "exp_avg", "exp_avg_sq", "momentum", "buffer"};

/// "kind:name:first", as shard files name their tensors.
struct PieceName {
  std::string tensor;  ///< "kind:name"
  int64_t first;

  static std::optional<PieceName> parse(const std::string& text) {
    const auto kind_end = text.find(':'), last = text.rfind(':');
    if (last == kind_end || std::ranges::find(kKinds, std::string_view(text).substr(0, kind_end)) == kKinds.end())
      return {};
    int64_t first = 0;
    const auto* const end = text.data() + text.size();
    const auto result = std::from_chars(text.data() + last + 1, end, first);
    if (result.ec != std::errc() || result.ptr != end || first < 0) return {};
    return PieceName{text.substr(0, last), first};
  }
};

}  // namespace

CheckpointReader::CheckpointReader(const std::string& step_folder)
    : CheckpointReader(step_folder, Manifest::read(step_folder)) {
  lock_ = lock_against_removal(step_folder);
}

CheckpointReader::CheckpointReader(const std::string& step_folder, Manifest manifest)
    : folder_(step_folder), manifest_(std::move(manifest)) {
  files_.reserve(manifest_.files.size());
  for (const auto& file : manifest_.files) add(files_.emplace_back(folder_, file));
  pieces_.sizes();
}

void CheckpointReader::add(const VerifiedFile& file) {
  for (const auto& [name, entry] : file.tensors().entries()) {
    const auto piece = PieceName::parse(name);
    if (!piece || entry.shape.size() != 1)
      throw CheckpointError(fmt::format("{}: tensor '{}' with {} dimensions is not a flat piece of a state", folder_,
                                        name, entry.shape.size()));
    pieces_.add(piece->tensor, piece->first, entry.dtype, file.tensors().bytes(name));
    dtypes_.emplace(piece->tensor, entry.dtype);
  }
}

std::vector<SavedTensor> CheckpointReader::tensors() const {
  std::vector<SavedTensor> out;
  for (const auto& [tensor, numel] : pieces_.sizes()) {
    const auto kind_end = tensor.find(':');
    out.push_back({tensor.substr(0, kind_end), tensor.substr(kind_end + 1), numel, dtypes_.at(tensor)});
  }
  return out;
}

void CheckpointReader::read(const std::string& kind, const std::string& name, int64_t begin, const at::Tensor& out) {
  pieces_.read(kind + ":" + name, begin, out, [this](auto bytes, auto to) { fetch(bytes, to); });
}

void CheckpointReader::fetch(std::span<const std::byte> bytes, std::span<std::byte> out) {
  auto& file = *std::ranges::find_if(files_, [&](const auto& f) { return f.holds(bytes); });
  if (last_ && last_ != &file) last_->drop_kept();  // of hundreds of files one block is kept
  last_ = &file;
  file.read(bytes, out);
}

void CheckpointReader::verify_all(const std::function<void(int64_t done, int64_t all)>& progress) {
  std::vector<std::byte> block(BlockHasher::kBlockBytes);
  int64_t all = 0, done = 0;
  for (const auto& file : files_) all += std::ssize(file.tensors().all_bytes());
  for (auto& file : files_) {
    const auto header = file.tensors().header_bytes();  // the constructor verified it
    done += header;
    for (auto rest = file.tensors().all_bytes().subspan(static_cast<size_t>(header)); !rest.empty();) {
      const auto part = rest.first(std::min(block.size(), rest.size()));
      file.read(part, std::span(block).first(part.size()));
      done += std::ssize(part);
      rest = rest.subspan(part.size());
      if (progress) progress(done, all);
    }
  }
}

int64_t CheckpointReader::read_bytes() const {
  int64_t bytes = 0;
  for (const auto& file : files_) bytes += file.read_bytes();
  return bytes;
}

}  // namespace olmoe
