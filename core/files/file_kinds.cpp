#include "core/files/file_kinds.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace olmoe {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view begin;
  FileKind kind;
};
constexpr std::array kMagics{
    Magic{"version https://git-lfs."sv, FileKind::git_lfs_pointer},
    Magic{"/annex/objects/"sv, FileKind::git_annex_pointer},
    Magic{"<!DOCTYPE"sv, FileKind::web_page},
    Magic{"<!doctype"sv, FileKind::web_page},
    Magic{"<html"sv, FileKind::web_page},
    Magic{"\x1f\x8b\x08"sv, FileKind::gzip},
    Magic{"\x28\xb5\x2f\xfd"sv, FileKind::zstandard},
    Magic{"\xfd\x37zXZ\0"sv, FileKind::xz},
    Magic{"BZh91AY&SY"sv, FileKind::bzip2},
    Magic{"PK\x03\x04"sv, FileKind::zip},
    Magic{"\x80\x02"sv, FileKind::pickle},
    Magic{"GGUF"sv, FileKind::gguf},
    Magic{"\x89HDF\r\n\x1a\n"sv, FileKind::hdf5},
    Magic{"\x93NUMPY"sv, FileKind::numpy},
    Magic{"PAR1"sv, FileKind::parquet},
    Magic{"ARROW1\0\0"sv, FileKind::arrow},
    Magic{"MMIDIDX\0\0"sv, FileKind::megatron_index},
};

}  // namespace

FileKind file_kind(std::span<const std::byte> begin) {
  const std::string_view text(reinterpret_cast<const char*>(begin.data()), begin.size());
  const auto* magic = std::ranges::find_if(kMagics, [&](const Magic& each) { return text.starts_with(each.begin); });
  return magic == kMagics.end() ? FileKind::other : magic->kind;
}

std::string recognize_file(std::span<const std::byte> begin) {
  switch (file_kind(begin)) {
    case FileKind::git_lfs_pointer:
      return "a Git LFS pointer, not the file itself: run `git lfs pull` in its folder";
    case FileKind::web_page:
      return "a web page: the download went wrong, or needs a login";
    case FileKind::zip:
      return "a zip archive, as PyTorch's .bin and .pt files are: save the model as safetensors";
    case FileKind::pickle:
      return "a pickle, as old PyTorch files are: save the model as safetensors";
    case FileKind::gzip:
      return "a gzip archive: unpack it";
    case FileKind::gguf:
      return "a GGUF file: take the model's safetensors";
    case FileKind::hdf5:
      return "an HDF5 file: save the model as safetensors";
    default:
      return {};
  }
}

}  // namespace olmoe
