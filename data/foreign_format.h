#pragma once
#include <cstddef>
#include <span>
#include <string_view>

namespace olmoe {

/// What a file is by its first bytes, where that is no raw token ids, and what to do: "is a gzip
/// file; decompress it". Empty where nothing speaks against ids. Text is told by 128 bytes or more
/// of UTF-8 without control characters; so many bytes of ids hold some.
std::string_view foreign_format(std::span<const std::byte> head);

}  // namespace olmoe
