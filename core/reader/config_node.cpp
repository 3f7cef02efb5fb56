#include "core/reader/config_node.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/utf8.h"

namespace olmoe {
namespace {

constexpr size_t kLineWidth = 100;

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + part;
  return out;
}

void append_section(const ConfigNode& section, const std::string& indent, std::string& out) {
  for (size_t i = 0; i < section.items.size(); ++i) {
    const ConfigNode& node = section.items[i];
    const std::string line = indent + section.keys[i] + ":";
    if (node.kind == ConfigNode::Kind::section && !node.items.empty()) {
      out += line + "\n";
      append_section(node, indent + "  ", out);
      continue;
    }
    const std::string value = node.inline_text();
    if (node.kind != ConfigNode::Kind::list || line.size() + 1 + value.size() <= kLineWidth) {
      out += line + " " + value + "\n";
      continue;
    }
    out += line + "\n";
    for (const ConfigNode& item : node.items) out += indent + "  - " + item.inline_text() + "\n";
  }
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

ConfigNode ConfigNode::scalar(std::string text, bool quoted) {
  ConfigNode node;
  node.kind = Kind::scalar;
  node.text = std::move(text);
  node.quoted = quoted;
  return node;
}

ConfigNode ConfigNode::section(std::string where) {
  ConfigNode node;
  node.kind = Kind::section;
  node.where = std::move(where);
  return node;
}

const ConfigNode* ConfigNode::find(std::string_view key) const {
  const auto found = std::find(keys.begin(), keys.end(), key);
  return found == keys.end() ? nullptr : &items[static_cast<size_t>(found - keys.begin())];
}

void ConfigNode::add(std::string key, ConfigNode node) {
  keys.push_back(std::move(key));
  items.push_back(std::move(node));
}

void ConfigNode::merge(ConfigNode over) {
  if (kind != Kind::section || over.kind != Kind::section) {
    *this = std::move(over);
    return;
  }
  for (size_t i = 0; i < over.items.size(); ++i) {
    const auto found = std::find(keys.begin(), keys.end(), over.keys[i]);
    if (found == keys.end()) {
      add(std::move(over.keys[i]), std::move(over.items[i]));
    } else {
      items[static_cast<size_t>(found - keys.begin())].merge(std::move(over.items[i]));
    }
  }
}

std::string ConfigNode::inline_text() const {
  if (kind == Kind::null) return "null";
  if (kind == Kind::scalar) return quoted ? in_quotes(text) : text;
  std::vector<std::string> parts;
  for (size_t i = 0; i < items.size(); ++i)
    parts.push_back((kind == Kind::section ? keys[i] + ": " : "") + items[i].inline_text());
  return kind == Kind::list ? "[" + join(parts) + "]" : "{" + join(parts) + "}";
}

std::string ConfigNode::yaml() const {
  std::string out;
  append_section(*this, "", out);
  return out.empty() ? "{}\n" : out;
}

std::string printable(std::string_view text) {
  constexpr size_t kLimit = 60;
  size_t end = std::min(text.size(), kLimit);
  while (end < text.size() && end > 0 && (text[end] & 0xc0) == 0x80) --end;  // not inside a UTF-8 character
  std::string out;
  for (size_t at = 0; at < end;) {
    const size_t length = utf8_character_bytes(text, at);
    const std::string quoted = in_quotes(text.substr(at, length));
    out += length == 0 ? fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]))
                       : quoted.substr(1, quoted.size() - 2);
    at += std::max<size_t>(length, 1);
  }
  return out + (end < text.size() ? "..." : "");
}

std::string_view nearest_word(std::string_view word, const std::vector<std::string_view>& candidates) {
  if (word.empty()) return {};
  size_t limit = std::clamp<size_t>(word.size() / 3, 1, 3);
  std::string_view nearest;
  for (const std::string_view candidate : candidates) {
    if (std::max(candidate.size(), word.size()) - std::min(candidate.size(), word.size()) > limit) continue;
    const size_t distance = edit_distance(word, candidate);
    if (distance > limit || (distance == limit && !nearest.empty())) continue;
    limit = distance;
    nearest = candidate;
  }
  return nearest;
}

std::vector<std::string_view> names_of_equal_parts(std::string_view name,
                                                   const std::vector<std::string_view>& candidates) {
  const auto singular = [](std::string_view part) {
    return part.ends_with('s') ? part.substr(0, part.size() - 1) : part;
  };
  const auto parts_of = [&](std::string_view text) {
    std::set<std::string_view> parts;
    for (size_t begin = 0, end = 0; begin <= text.size(); begin = end + 1) {
      end = std::min(text.find('_', begin), text.size());
      if (end > begin) parts.insert(singular(text.substr(begin, end - begin)));
    }
    return parts;
  };
  const auto wanted = parts_of(name);
  std::vector<std::string_view> best;
  ptrdiff_t most = 1;
  for (const auto candidate : candidates) {
    const auto parts = parts_of(candidate);
    const auto shared = std::ranges::count_if(wanted, [&](const auto part) { return parts.contains(part); });
    if (shared > most) best.clear();
    most = std::max(most, shared);
    if (shared == most) best.push_back(candidate);
  }
  return best;
}

}  // namespace olmoe
