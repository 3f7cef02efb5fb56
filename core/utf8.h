#pragma once
#include <cstddef>
#include <string_view>

namespace olmoe {

/// Bytes of the UTF-8 character at `at`; 0 for invalid bytes, overlong forms and surrogates.
size_t utf8_character_bytes(std::string_view text, size_t at);

/// True for ASCII control characters, which are refused in configs and paths.
bool is_control(char c);

}  // namespace olmoe
