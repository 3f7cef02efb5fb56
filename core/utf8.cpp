#include "core/utf8.h"

namespace olmoe {

size_t utf8_character_bytes(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  const size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (at + length > text.size()) return 0;
  for (size_t i = at + 1; i < at + length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  if (length < 3) return length;
  const unsigned char second = byte(at + 1);
  const bool is_outside = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second >= 0xa0) ||
                          (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second >= 0x90);
  return is_outside ? 0 : length;
}

bool is_control(char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }

}  // namespace olmoe
