#include "data/foreign_format.h"

#include <algorithm>
#include <cstdint>

#include "core/files/file_kinds.h"

namespace olmoe {
namespace {

/// Empty for text, and for a kind that raw ids may look like.
std::string_view problem_of(FileKind kind) {
  switch (kind) {
    case FileKind::numpy:
      return "is a NumPy array with a header; save its bytes alone (tofile)";
    case FileKind::git_lfs_pointer:
      return "is a Git LFS pointer, not the tokens; fetch them with `git lfs pull`";
    case FileKind::git_annex_pointer:
      return "is a git-annex pointer, not the tokens; fetch them with `git annex get`";
    case FileKind::gzip:
      return "is a gzip file; decompress it (gunzip)";
    case FileKind::zstandard:
      return "is a Zstandard file; decompress it (unzstd)";
    case FileKind::xz:
      return "is an xz file; decompress it (unxz)";
    case FileKind::bzip2:
      return "is a bzip2 file; decompress it (bunzip2)";
    case FileKind::zip:
      return "is a zip archive (also .npz and .pt); save its ids as raw bytes (tofile)";
    case FileKind::parquet:
      return "is a Parquet file; write its token column as raw ids, or tokenize its text";
    case FileKind::arrow:
      return "is an Arrow file; write its token column as raw ids, or tokenize its text";
    case FileKind::hdf5:
      return "is an HDF5 file; save its ids as raw bytes (tofile)";
    case FileKind::megatron_index:
      return "is the index of a Megatron data set; its tokens are in the .bin file beside it";
    case FileKind::other:
    case FileKind::web_page:
    case FileKind::pickle:
    case FileKind::gguf:
      return {};
  }
  return {};
}

/// Bytes of the UTF-8 character that begins with `lead`; 0 if none does.
size_t character_bytes(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

bool is_control(uint8_t byte) {
  return byte == 0x7f || (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r' && byte != '\f');
}

/// True for UTF-8 without control characters; the last character may be incomplete.
bool is_text(std::string_view bytes) {
  constexpr size_t kLeast = 128;
  if (bytes.size() < kLeast) return false;
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<uint8_t>(bytes[i]);
    const size_t length = character_bytes(lead);
    if (length == 0 || is_control(lead)) return false;
    for (size_t j = i + 1; j < std::min(i + length, bytes.size()); ++j)
      if ((static_cast<uint8_t>(bytes[j]) & 0xc0) != 0x80) return false;
    i += length;
  }
  return true;
}

}  // namespace

std::string_view foreign_format(std::span<const std::byte> head) {
  const std::string_view bytes(reinterpret_cast<const char*>(head.data()), head.size());
  if (const auto problem = problem_of(file_kind(head)); !problem.empty()) return problem;
  return is_text(bytes) ? "is text, not token ids; tokenize it first (scripts/tokenize.py)" : std::string_view{};
}

}  // namespace olmoe
