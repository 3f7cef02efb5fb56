#include "core/files/file_kinds.h"

#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"

using namespace olmoe;
using namespace std::string_literals;

namespace {

std::string recognized(const std::string& text) { return recognize_file(std::as_bytes(std::span(text))); }

}  // namespace

TEST_CASE("files that are mistaken for models are recognized by their first bytes") {
  const std::vector<std::pair<std::string, std::string>> files{
      {"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"},
      {"<!DOCTYPE html>", "a web page"},
      {"<!doctype html>", "a web page"},
      {"<html>", "a web page"},
      {"PK\x03\x04\x14", "a zip archive"},
      {"\x80\x02}q", "a pickle"},
      {"\x1f\x8b\x08\0"s, "a gzip archive"},
      {"GGUF\x03", "a GGUF file"},
      {"\x89HDF\r\n\x1a\n", "an HDF5 file"}};
  for (const auto& [begin, words] : files) CHECK(recognized(begin).starts_with(words));
}

TEST_CASE("unknown files, and truncated magic bytes, are not recognized") {
  for (const auto& begin : {""s, "{}"s, "GGU"s, "\x1f\x8b"s, "\x89HDF"s}) {
    CHECK(file_kind(std::as_bytes(std::span(begin))) == FileKind::other);
    CHECK(recognized(begin).empty());
  }
}
