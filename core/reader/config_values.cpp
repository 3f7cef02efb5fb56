#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/reader/config_reader.h"

namespace olmoe {
namespace {

using Kind = ConfigNode::Kind;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Length of the decimal digits at `begin`; a leading zero stands alone, as in JSON.
size_t whole_digits(std::string_view text, size_t begin) {
  size_t end = begin;
  while (end < text.size() && is_digit(text[end])) ++end;
  return end - begin > 1 && text[begin] == '0' ? 1 : end - begin;
}

size_t any_digits(std::string_view text, size_t begin) {
  size_t end = begin;
  while (end < text.size() && is_digit(text[end])) ++end;
  return end - begin;
}

/// JSON's grammar of a number. from_chars alone would accept "inf", "nan" and "1.".
bool is_number(std::string_view text) {
  size_t at = text.starts_with('-') ? 1 : 0;
  const size_t whole = whole_digits(text, at);
  if (whole == 0) return false;
  at += whole;
  if (at < text.size() && text[at] == '.') {
    const size_t fraction = any_digits(text, at + 1);
    if (fraction == 0) return false;
    at += 1 + fraction;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    const size_t exponent = any_digits(text, at);
    if (exponent == 0) return false;
    at += exponent;
  }
  return at == text.size();
}

/// The plain digits of an integer: `1e6` and `2.5e3` are written out. Empty if the text is not an integer; a point
/// without an exponent is not one.
std::string integer_digits(const std::string& text) {
  constexpr int64_t kMostDigits = 20;  // to append: more than fit in 64 bits
  const size_t mark = text.find_first_of("eE");
  if (!is_number(text) || (mark == std::string::npos && text.find('.') != std::string::npos)) return {};
  std::string digits = text.substr(0, mark);
  if (mark == std::string::npos) return digits;
  const size_t sign = text[mark + 1] == '+' ? 1 : 0;
  int written = 0;
  const auto read = std::from_chars(text.data() + mark + 1 + sign, text.data() + text.size(), written);
  int64_t exponent = written;
  if (const size_t point = digits.find('.'); point != std::string::npos) {
    exponent -= std::ssize(digits) - static_cast<int64_t>(point) - 1;
    digits.erase(point, 1);
  }
  const bool is_zero = digits.find_first_not_of("-0") == std::string::npos;
  if (is_zero) return "0";
  if (read.ec != std::errc{} || exponent < -std::ssize(digits)) return {};
  for (; exponent < 0 && digits.back() == '0'; ++exponent) digits.pop_back();
  if (exponent < 0) return {};
  return digits.append(static_cast<size_t>(std::min(exponent, kMostDigits)), '0');
}

template <class T>
void read_number(const ConfigPlace& at, T& value, const std::string& text, std::string_view type,
                 std::string_view hint = {}) {
  if (at.node.kind != Kind::scalar || at.node.quoted || text.empty()) return at.expected(type, hint);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) at.expected(fmt::format("{} that fits in 64 bits", type));
}

std::string lower_case(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return text;
}

/// True if a plain scalar of this text would be read as something else, here or by another YAML reader.
bool needs_quotes(std::string_view text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto is_plain = [&](char c) { return is_letter(c) || is_digit(c) || c == '/' || c == '.' || c == '-'; };
  if (text.empty() || !(is_letter(text[0]) || text[0] == '/')) return true;
  if (!std::all_of(text.begin(), text.end(), is_plain)) return true;
  const std::string lower = lower_case(std::string(text));
  constexpr std::array<std::string_view, 9> kReserved{"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  return std::find(kReserved.begin(), kReserved.end(), lower) != kReserved.end();
}

/// `prefix` goes before the word that is proposed.
std::string did_you_mean(std::string_view word, const std::vector<std::string_view>& candidates,
                         std::string_view prefix = {}) {
  const std::string_view nearest = nearest_word(word, candidates);
  return nearest.empty() ? "" : fmt::format(", did you mean '{}{}'?", prefix, nearest);
}

std::string described(const ConfigNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "null";
    case Kind::list:
      return "a list";
    case Kind::section:
      return "a section";
    case Kind::scalar:
      break;
  }
  return fmt::format("{}'{}'", node.quoted ? "the text " : "", printable(node.text));
}

std::string joined_path(const std::string& section, std::string_view key) {
  return section.empty() ? printable(key) : section + "." + printable(key);
}

std::string_view last_name(std::string_view path) { return path.substr(path.rfind('.') + 1); }

/// Suggests the fields of this name in all sections.
std::string fields_named(std::string_view name, const std::vector<std::string>& known_paths) {
  std::vector<std::string_view> paths;
  for (const std::string_view path : known_paths)
    if (!name.empty() && last_name(path) == name) paths.push_back(path);
  return paths.empty() ? "" : fmt::format(", did you mean '{}'?", fmt::join(paths, "' or '"));
}

/// The whole path of a field: one of that very name elsewhere, else one in `section` that the key misspells, else one
/// elsewhere. `here`: the keys of `section`.
std::string hint_for_key(std::string_view key, const std::string& section, const std::vector<std::string_view>& here,
                         const std::vector<std::string>& known_paths) {
  std::string hint = fields_named(key, known_paths);
  if (hint.empty()) hint = did_you_mean(key, here, section.empty() ? "" : section + ".");
  if (!hint.empty()) return hint;
  std::vector<std::string_view> names;
  for (const std::string_view path : known_paths) names.push_back(last_name(path));
  hint = fields_named(nearest_word(key, names), known_paths);
  if (!hint.empty()) return hint;
  const auto alike = names_of_equal_parts(key, here);
  return alike.empty() ? "" : fmt::format(", keys like it in this section: {}", fmt::join(alike, ", "));
}

/// A hint for words that other YAML readers take for a boolean.
std::string_view hint_for_boolean(const ConfigNode& node) {
  constexpr std::array<std::string_view, 5> kTrue{"true", "yes", "on", "y", "1"};
  constexpr std::array<std::string_view, 5> kFalse{"false", "no", "off", "n", "0"};
  const std::string word = lower_case(node.text);
  if (node.quoted || node.text.empty()) return {};
  if (std::find(kTrue.begin(), kTrue.end(), word) != kTrue.end()) return ", did you mean 'true'?";
  return std::find(kFalse.begin(), kFalse.end(), word) != kFalse.end() ? ", did you mean 'false'?" : "";
}

/// How a list of the one value that stands there is written: whole on the command line, its value in a file.
std::string hint_for_list(const ConfigPlace& at) {
  if (at.node.kind != Kind::scalar || at.node.text.empty()) return {};
  const bool is_override = at.node.file.empty() && at.path.find('[') == std::string::npos;
  return fmt::format(", write {}[{}]", is_override ? at.path + "=" : "", at.node.inline_text());
}

const RenamedKey* renamed_from(std::string_view before, std::span<const RenamedKey> renamed) {
  const auto found = std::ranges::find(renamed, before, &RenamedKey::before);
  return found == renamed.end() ? nullptr : &*found;
}

/// The node of `key`, or of its old name if old names are accepted.
const ConfigNode* find_field(const ConfigPlace& at, const ConfigFields& fields, std::string_view key) {
  if (const ConfigNode* node = at.node.find(key)) return node;
  if (at.reading.old_names == OldNames::refused) return nullptr;
  const auto found = std::ranges::find(fields.renamed_keys(), key, &RenamedKey::now);
  return found == fields.renamed_keys().end() ? nullptr : at.node.find(found->before);
}

/// An unknown key; of a section, those in it.
void add_unknown(const ConfigNode& node, const std::string& path, std::vector<UnknownSetting>& unknown) {
  if (node.kind != Kind::section || node.items.empty())
    return unknown.push_back({path, printable(node.kind == Kind::scalar ? node.text : node.inline_text()), {}});
  for (size_t i = 0; i < node.items.size(); ++i) add_unknown(node.items[i], joined_path(path, node.keys[i]), unknown);
}

void note_unknown_keys(const ConfigPlace& at, const ConfigFields& fields) {
  std::vector<std::string_view> known;
  for (const ConfigField& field : fields.list()) known.push_back(field.key);
  for (size_t i = 0; i < at.node.keys.size(); ++i) {
    const std::string& key = at.node.keys[i];
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    if (const auto* renamed = renamed_from(key, fields.renamed_keys())) {
      if (at.reading.old_names == OldNames::refused)
        at.reading.problems.push_back(fmt::format("{}: is called {} now ({})", joined_path(at.path, key),
                                                  joined_path(at.path, renamed->now), at.node.items[i].where));
      continue;
    }
    if (at.reading.unknown != nullptr) {
      add_unknown(at.node.items[i], joined_path(at.path, key), *at.reading.unknown);
      continue;
    }
    at.reading.problems.push_back(fmt::format("{}: unknown key ({}){}", joined_path(at.path, key),
                                              at.node.items[i].where,
                                              hint_for_key(key, at.path, known, at.reading.known_paths)));
  }
}

void add_leaf_paths(const ConfigNode& node, const std::string& path, std::vector<std::string>& paths) {
  if (node.kind != Kind::section || node.items.empty()) return paths.push_back(path);
  for (size_t i = 0; i < node.items.size(); ++i) add_leaf_paths(node.items[i], joined_path(path, node.keys[i]), paths);
}

std::string table_text(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

/// The text of a value for a line of a message: of a long list its begin and its size.
std::string shortened(const ConfigNode& node, const std::string& text) {
  constexpr size_t kLong = 2000;
  return text.size() <= kLong ? text
                              : fmt::format("{} ({} bytes, {} items)", printable(text), text.size(), node.items.size());
}

void compare(const ConfigNode& a, const ConfigNode& b, const std::string& path, std::vector<std::string>& differing) {
  if (a.kind == Kind::section && b.kind == Kind::section) {
    for (size_t i = 0; i < a.items.size(); ++i)
      compare(a.items[i], b.items[i], joined_path(path, a.keys[i]), differing);
    return;
  }
  const std::string text_a = a.inline_text(), text_b = b.inline_text();
  if (text_a != text_b)
    differing.push_back(fmt::format("{}: {} -> {}", path, shortened(a, text_a), shortened(b, text_b)));
}

}  // namespace

void ConfigPlace::expected(std::string_view what, std::string_view hint) const {
  reading.problems.push_back(fmt::format("{}: expected {}, got {} ({}){}", path.empty() ? "config" : path, what,
                                         described(node), node.where, hint));
}

ConfigField& ConfigField::per_host() {
  is_per_host = true;
  return *this;
}

ConfigField& ConfigField::data_files() {
  ENSURE(texts != nullptr, "{} is no list of text", key);
  is_data_files = true;
  return per_host();
}

namespace config_detail {

std::string type_words(bool) { return "true or false"; }
std::string type_words(int64_t) { return "integer"; }
std::string type_words(double) { return "number"; }
std::string type_words(const std::string&) { return "text"; }

std::string one_of(std::span<const char* const> words) { return fmt::format("one of {}", fmt::join(words, ", ")); }

void read_scalar(const ConfigPlace& at, bool& value) {
  const bool word = at.node.kind == Kind::scalar && !at.node.quoted;
  if (!word || (at.node.text != "true" && at.node.text != "false"))
    return at.expected("true or false", hint_for_boolean(at.node));
  value = at.node.text == "true";
}

void read_scalar(const ConfigPlace& at, int64_t& value) {
  std::string plain = at.node.text;
  std::erase(plain, '_');
  const bool has_marks = plain != at.node.text && !integer_digits(plain).empty();
  read_number(at, value, integer_digits(at.node.text), "an integer", has_marks ? fmt::format(", write {}", plain) : "");
}

void read_scalar(const ConfigPlace& at, double& value) {
  read_number(at, value, is_number(at.node.text) ? at.node.text : "", "a number");
}

void read_scalar(const ConfigPlace& at, std::string& value) {
  if (at.node.kind == Kind::null) return at.expected("text", ", for none write \"\"");
  if (at.node.kind != Kind::scalar) return at.expected("text", ", put text in quotes");
  value = at.node.text;
}

std::optional<size_t> read_word(const ConfigPlace& at, std::span<const char* const> words,
                                std::span<const RenamedKey> renamed) {
  if (at.node.kind == Kind::scalar) {
    const auto* old = renamed_from(at.node.text, renamed);
    if (old && at.reading.old_names == OldNames::refused) {
      at.expected(one_of(words), fmt::format(", '{}' is called '{}' now", old->before, old->now));
      return std::nullopt;
    }
    const std::string_view word = old ? old->now : std::string_view(at.node.text);
    for (size_t i = 0; i < words.size(); ++i)
      if (word == words[i]) return i;
    if (at.reading.unknown != nullptr) {
      at.reading.unknown->push_back({at.path, printable(at.node.text), one_of(words)});
      return std::nullopt;
    }
  }
  at.expected(one_of(words), did_you_mean(at.node.text, {words.begin(), words.end()}));
  return std::nullopt;
}

std::vector<ConfigPlace> read_list(const ConfigPlace& at) {
  std::vector<ConfigPlace> places;
  if (at.node.kind != Kind::list) {
    at.expected("a list", hint_for_list(at));
    return places;
  }
  for (const ConfigNode& item : at.node.items)
    places.push_back({item, fmt::format("{}[{}]", at.path, places.size()), at.reading});
  return places;
}

void read_fields(const ConfigPlace& at, const ConfigFields& fields) {
  if (at.node.kind == Kind::null) return at.expected("a section", ", indent its keys below it");
  if (at.node.kind != Kind::section) return at.expected("a section");
  note_unknown_keys(at, fields);
  // A section that the file lacks is read as an empty one: it may have required keys.
  const ConfigNode absent_section = ConfigNode::section(at.node.where);
  for (const ConfigField& field : fields.list()) {
    const std::string path = joined_path(at.path, field.key);
    if (const ConfigNode* node = find_field(at, fields, field.key)) {
      field.read({*node, path, at.reading});
    } else if (field.required) {
      at.reading.problems.push_back(fmt::format("{}: required key is missing ({})", path, at.node.where));
    } else if (field.type == "section") {
      field.read({absent_section, path, at.reading});
    }
  }
}

ConfigNode write_scalar(bool value) { return ConfigNode::scalar(value ? "true" : "false"); }

ConfigNode write_scalar(int64_t value) { return ConfigNode::scalar(std::to_string(value)); }

ConfigNode write_scalar(double value) {
  ENSURE(std::isfinite(value), "a config cannot hold {}", value);
  std::array<char, 32> digits;
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return ConfigNode::scalar({digits.data(), result.ptr});
}

ConfigNode write_scalar(const std::string& value) { return ConfigNode::scalar(value, needs_quotes(value)); }

ConfigNode write_fields(const ConfigFields& fields) {
  ConfigNode section = ConfigNode::section();
  for (const ConfigField& field : fields.list()) section.add(field.key, field.write());
  return section;
}

void visit_fields(const std::string& prefix, const ConfigFields& fields, const ConfigVisit& visit) {
  for (const ConfigField& field : fields.list()) {
    const std::string path = prefix + field.key;
    if (!visit(path, field)) continue;
    for (const auto& [place, inner] : field.parts()) visit_fields(path + place + ".", inner, visit);
  }
}

std::string document_fields(const std::string& prefix, const ConfigFields& fields) {
  std::string rows;
  for (const ConfigField& field : fields.list()) {
    const std::string path = prefix + field.key;
    const bool is_leaf = field.type != "section";
    const std::string standard = field.required ? "required" : "`" + field.write().inline_text() + "`";
    if (is_leaf)
      rows += fmt::format("| `{}` | {} | {} | {} |\n", path, table_text(field.type), table_text(standard),
                          table_text(field.meaning));
    rows += field.nested_rows(path);
  }
  return rows;
}

std::string document_table(const ConfigFields& fields) {
  return "| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + document_fields("", fields);
}

std::vector<std::string> leaf_paths(const ConfigFields& fields) {
  std::vector<std::string> paths;
  add_leaf_paths(write_fields(fields), "", paths);
  return paths;
}

std::vector<std::string> differences(const ConfigNode& a, const ConfigNode& b) {
  std::vector<std::string> differing;
  compare(a, b, "", differing);
  return differing;
}

}  // namespace config_detail
}  // namespace olmoe
