#pragma once
#include <cstddef>
#include <string_view>

namespace olmoe {

/// Bytes of the UTF-8 character at `at`, or 0 where there is none: bad bytes, overlong, surrogate.
size_t utf8_character_bytes(std::string_view text, size_t at);

/// True for ASCII control characters, which neither a config nor a path may hold.
bool is_control(char c);

}  // namespace olmoe
