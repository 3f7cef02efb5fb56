#include "core/file_kinds.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace olmoe {
namespace {

struct Kind {
  std::string_view begin, what;
};
constexpr std::array kKinds{
    Kind{"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"},
    Kind{"<!DOCTYPE", "a web page: the download went wrong, or needs a login"},
    Kind{"<!doctype", "a web page: the download went wrong, or needs a login"},
    Kind{"<html", "a web page: the download went wrong, or needs a login"},
    Kind{"PK\x03\x04", "a zip archive, as PyTorch's .bin and .pt files are: save the model as safetensors"},
    Kind{"\x80\x02", "a pickle, as old PyTorch files are: save the model as safetensors"},
    Kind{"\x1f\x8b", "a gzip archive: unpack it"},
    Kind{"GGUF", "a GGUF file: take the model's safetensors"},
    Kind{"\x89HDF", "an HDF5 file: save the model as safetensors"},
};

}  // namespace

std::string recognize_file(std::span<const std::byte> begin) {
  const std::string_view text(reinterpret_cast<const char*>(begin.data()), begin.size());
  const auto* kind = std::ranges::find_if(kKinds, [&](const Kind& each) { return text.starts_with(each.begin); });
  return kind == kKinds.end() ? std::string() : std::string(kind->what);
}

}  // namespace olmoe
