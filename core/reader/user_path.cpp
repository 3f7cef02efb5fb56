#include "core/reader/user_path.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/reader/config_node.h"
#include "core/utf8.h"

namespace olmoe {
namespace {

constexpr size_t kMaxPathBytes = 4095;  // PATH_MAX without its zero
constexpr size_t kMaxNameBytes = 255;   // NAME_MAX

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  throw ConfigError(fmt::format("'{}': {}", printable(text), why));
}

void check_characters(std::string_view text) {
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    length = utf8_character_bytes(text, at);
    if (length == 0) refuse(text, "a path must be UTF-8; rename the file");
    if (is_control(text[at])) refuse(text, "a path may not hold control characters; rename the file");
  }
}

/// `$NAME` or `${`, which a shell would have replaced.
bool names_variable(std::string_view text) {
  for (size_t at = text.find('$'); at != std::string_view::npos; at = text.find('$', at + 1)) {
    const char next = at + 1 < text.size() ? text[at + 1] : ' ';
    if (next == '{' || next == '_' || std::isalpha(static_cast<unsigned char>(next))) return true;
  }
  return false;
}

std::string with_home(std::string_view text) {
  if (!text.starts_with('~')) return std::string(text);
  if (text.size() > 1 && text[1] != '/')
    refuse(text, fmt::format("homes of users are not looked up; write the folder itself, or ./{} for a name that "
                             "begins with ~",
                             printable(text)));
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == 0) refuse(text, "HOME is not set; write the folder itself");
  return std::string(home).append(text.substr(1));
}

void check_lengths(std::string_view path) {
  if (path.size() > kMaxPathBytes)
    refuse(path, fmt::format("{} bytes, and file systems take paths of at most {}", path.size(), kMaxPathBytes));
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (end - begin > kMaxNameBytes)
      refuse(path.substr(begin),
             fmt::format("a name of {} bytes, and file systems take at most {}", end - begin, kMaxNameBytes));
    begin = end + 1;
  }
}

}  // namespace

std::string user_path(std::string_view text, const std::string& folder) {
  if (text.empty()) throw ConfigError("an empty path");
  check_characters(text);
  if (names_variable(text))
    refuse(text,
           "variables are not replaced in a config; write the folder itself, ~/ for your home, or give "
           "the path on the command line, where the shell replaces them outside of single quotes");
  // operator/ returns an absolute right operand as it is.
  const auto expanded = with_home(text);
  check_characters(expanded);
  auto path = (std::filesystem::path(folder) / expanded).string();
  check_lengths(path);
  return path;
}

}  // namespace olmoe
