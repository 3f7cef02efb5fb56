#include "trainer/generation/text_codec.h"

#include <fmt/format.h>

#include <string_view>

#include "core/utf8.h"

namespace olmoe {
namespace {

constexpr int64_t kBytes = 256;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

/// Whether more bytes can make a character of all of `text`, which is not one.
bool begins_character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  if (lead < 0xc2 || lead >= 0xf5) return false;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (text.size() == 1) return true;
  if (text.size() >= length) return false;
  std::string whole(text);
  whole.append(length - text.size(), '\x80');  // after the second byte any continuation is valid
  return utf8_character_bytes(whole, 0) == length;
}

/// Moves whole characters out of `held`; of bytes that are in none, each becomes a replacement character.
std::string take_characters(std::string& held, bool ended) {
  std::string out;
  size_t at = 0;
  while (at < held.size()) {
    const size_t bytes = utf8_character_bytes(held, at);
    if (bytes == 0 && !ended && begins_character(std::string_view(held).substr(at))) break;
    if (bytes == 0)
      out += kReplacement;
    else
      out += held.substr(at, bytes);
    at += bytes == 0 ? 1 : bytes;
  }
  held.erase(0, at);
  return out;
}

}  // namespace

std::vector<int64_t> ByteCodec::encode(const std::string& text) {
  std::vector<int64_t> out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

std::string ByteCodec::decode(size_t text, int64_t id) {
  auto& held = held_[text];
  if (id < 0 || id >= kBytes) return take_characters(held, /*ended=*/true) + fmt::format("<|{}|>", id);
  held += static_cast<char>(id);
  return take_characters(held, /*ended=*/false);
}

std::string ByteCodec::finish(size_t text) {
  const auto out = take_characters(held_[text], /*ended=*/true);
  held_.erase(text);
  return out;
}

}  // namespace olmoe
