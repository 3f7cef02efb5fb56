#include "data/foreign_format.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace olmoe {
namespace {

using namespace std::string_view_literals;

struct Format {
  std::string_view magic;
  std::string_view problem;
};

constexpr std::array kFormats{
    Format{"\x93NUMPY"sv, "is a NumPy array with a header; save its bytes alone (tofile)"},
    Format{"version https://git-lfs."sv,
           "is a Git LFS pointer, not the tokens; fetch them with `git lfs pull`"},
    Format{"/annex/objects/"sv,
           "is a git-annex pointer, not the tokens; fetch them with `git annex get`"},
    Format{"\x1f\x8b\x08"sv, "is a gzip file; decompress it (gunzip)"},
    Format{"\x28\xb5\x2f\xfd"sv, "is a Zstandard file; decompress it (unzstd)"},
    Format{"\xfd\x37zXZ\0"sv, "is an xz file; decompress it (unxz)"},
    Format{"BZh91AY&SY"sv, "is a bzip2 file; decompress it (bunzip2)"},
    Format{"PK\x03\x04"sv,
           "is a zip archive (also .npz and .pt); save its ids as raw bytes (tofile)"},
    Format{"PAR1"sv, "is a Parquet file; write its token column as raw ids, or tokenize its text"},
    Format{"ARROW1\0\0"sv,
           "is an Arrow file; write its token column as raw ids, or tokenize its text"},
    Format{"\x89HDF\r\n\x1a\n"sv, "is an HDF5 file; save its ids as raw bytes (tofile)"},
    Format{"MMIDIDX\0\0"sv,
           "is the index of a Megatron data set; its tokens lie in the .bin file beside it"},
};

/// Length of the UTF-8 sequence that begins with `lead`; 0: none does.
size_t sequence_length(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

bool is_control(uint8_t byte) {
  return byte == 0x7f ||
         (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r' && byte != '\f');
}

/// The last character may be cut.
bool is_text(std::string_view bytes) {
  constexpr size_t kLeast = 128;
  if (bytes.size() < kLeast) return false;
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<uint8_t>(bytes[i]);
    const size_t length = sequence_length(lead);
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
  const auto known = std::find_if(kFormats.begin(), kFormats.end(), [&](const Format& format) {
    return bytes.starts_with(format.magic);
  });
  if (known != kFormats.end()) return known->problem;
  return is_text(bytes) ? "is text, not token ids; tokenize it first (scripts/tokenize.py)" : ""sv;
}

}  // namespace olmoe
