#pragma once
#include <cstddef>
#include <span>
#include <string_view>

namespace olmoe {

/// Identifies a file that is not raw token ids by its first bytes, with what to do: "is a gzip file; decompress it".
/// Empty if they may be ids. Text is recognized by 128 bytes or more of UTF-8 without control characters: as many bytes
/// of ids contain some.
std::string_view foreign_format(std::span<const std::byte> head);

}  // namespace olmoe
