#include "core/reader/config_reader_yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "core/utf8.h"

namespace olmoe {
namespace {

using Kind = ConfigNode::Kind;
using Problems = std::vector<std::string>;

// Limits against text that would exhaust stack, memory or time.
constexpr size_t kMaxKeys = 1000;
constexpr std::string_view kOpenQuote = "a quote opens here and does not close on its line";

/// The text from `begin` to the end of its line.
std::string_view rest_of_line(std::string_view text, size_t begin) {
  return text.substr(begin, std::min(text.find('\n', begin), text.size()) - begin);
}

/// Length of the quoted scalar that `line` begins with; 0 if its quote does not close on that line.
size_t quoted_length(std::string_view line) {
  const char quote = line[0];
  for (size_t at = 1; at < line.size() && line[at] != '\n'; ++at) {
    if (quote == '"' && line[at] == '\\' && line.substr(at + 1).starts_with('\n')) return 0;
    if (quote == '"' && line[at] == '\\') {
      ++at;
    } else if (line[at] == quote) {
      if (quote == '"' || at + 1 == line.size() || line[at + 1] != quote) return at + 1;
      ++at;  // two quotes are an escaped one
    }
  }
  return 0;
}

bool is_space(char c) { return c == ' ' || c == '\t'; }

/// A line without its comment and the space at its end. A '#' in quotes may cut it short.
std::string_view content_of(std::string_view line) {
  for (size_t at = 0; at < line.size(); ++at)
    if (line[at] == '#' && (at == 0 || is_space(line[at - 1]))) line = line.substr(0, at);
  const size_t last = line.find_last_not_of(" \t\r");
  return last == std::string_view::npos ? std::string_view() : line.substr(0, last + 1);
}

/// Where indentation goes wrong, counted from 1.
struct BadIndentation {
  int line;
  size_t column;
  std::string_view what;
};

/// The first line up to `last`, from 0, that is indented with a tab, or that is at the level of no section above it.
/// For text that is no YAML: only blocks are followed, up to brackets that go on over several lines.
std::optional<BadIndentation> find_bad_indentation(std::string_view text, int last) {
  std::vector<size_t> levels{0};
  bool opens = false;  // the line before begins a section or a list
  size_t begin = 0;
  for (int line = 0; line <= last && begin < text.size(); ++line) {
    const std::string_view whole = rest_of_line(text, begin), content = content_of(whole);
    begin += whole.size() + 1;
    const size_t indent = content.find_first_not_of(" \t");
    if (indent == std::string_view::npos) continue;
    if (const size_t tab = content.find('\t'); tab < indent)
      return BadIndentation{line + 1, tab + 1, "a tab; indent with spaces"};
    while (levels.back() > indent) levels.pop_back();
    if (levels.back() < indent && !opens)
      return BadIndentation{line + 1, indent + 1, "this line is at the level of no section above it"};
    if (levels.back() < indent) levels.push_back(indent);
    size_t item = indent;  // of a list, whose keys are below its first one
    while (content.substr(item).starts_with("- ")) levels.push_back(item = content.find_first_not_of(' ', item + 1));
    opens = content.ends_with(':') || content.substr(item) == "-";
    const auto count = [&](char c) { return std::ranges::count(content, c); };
    if (count('[') + count('{') > count(']') + count('}')) return std::nullopt;
  }
  return std::nullopt;
}

std::string describe(const BadIndentation& bad, const YamlSource& source) {
  return fmt::format("{}:{}:{}: invalid YAML: wrong indentation: {}", source.name, bad.line, bad.column, bad.what);
}

/// Whether the line after number `line`, from 0, begins a key, as far as it alone tells.
bool is_key_below(std::string_view text, int line) {
  size_t begin = 0;
  for (int at = 0; at <= line && begin < text.size(); ++at) begin += rest_of_line(text, begin).size() + 1;
  const std::string_view below = begin < text.size() ? content_of(rest_of_line(text, begin)) : std::string_view();
  return below.ends_with(':') || below.find(": ") != std::string_view::npos;
}

/// Builds the tree from the parser's events, which include duplicate keys, anchors and tags.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const std::string& text, const YamlSource& source, Problems& problems)
      : text_(text), source_(source), problems_(problems) {}

  ConfigNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) refuse(mark, "more than one document");
  }
  void OnDocumentEnd() override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse(mark, "an alias"); }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check(mark, "", anchor);
    if (wants_key()) refuse(mark, "a key that is not plain text");
    add(ConfigNode{}, mark);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check(mark, tag, anchor);
    check_line(mark, value);
    if (wants_key()) {
      open_key(value, mark);
    } else {
      add(ConfigNode::scalar(value, tag == "!"), mark);
    }
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Kind::section, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  /// A list or section that has not ended; the key whose value comes next, and the line of that key.
  struct Open {
    ConfigNode node;
    std::optional<std::string> key;
    std::string key_where;
    bool is_duplicate = false;
  };

  std::string where(const YAML::Mark& mark) const {
    return source_.command_line ? source_.name : fmt::format("{}:{}", source_.name, mark.line + 1);
  }

  [[noreturn]] void refuse(const YAML::Mark& mark, std::string_view what) const {
    throw ConfigError(fmt::format("{}: a config may not use {}", where(mark), what));
  }

  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) refuse(mark, "an anchor");
    if (!tag.empty() && tag != "?" && tag != "!") refuse(mark, "a tag");
    if (open_.size() >= kMaxConfigDepth) refuse(mark, fmt::format("more than {} levels", kMaxConfigDepth));
  }

  /// Refuses a scalar that continues in the next line: most often its quote was forgotten, or the
  /// line below is indented too far, and it would swallow the keys below.
  void check_line(const YAML::Mark& mark, const std::string& value) const {
    // Not cut at its end, which is far away in a long list on one line.
    const std::string_view line = text_.substr(std::min(text_.size(), static_cast<size_t>(mark.pos)));
    const char first = line.empty() ? ' ' : line[0];
    if (first == '!') refuse(mark, "a tag");
    if (first == '"' || first == '\'') {
      if (quoted_length(line) == 0) throw ConfigError(fmt::format("{}: invalid YAML: {}", where(mark), kOpenQuote));
    } else if (first == '|' || first == '>' || !line.starts_with(value) || value.find('\n') != std::string::npos) {
      const auto bad = is_key_below(text_, mark.line) ? find_bad_indentation(text_, mark.line + 1) : std::nullopt;
      if (bad && !source_.command_line) throw ConfigError(describe(*bad, source_));
      refuse(mark, "a value of several lines; for a line break in a text write \\n in double quotes");
    }
  }

  bool wants_key() const { return !open_.empty() && open_.back().node.kind == Kind::section && !open_.back().key; }

  std::string path() const {
    std::string path;
    for (const Open& open : open_)
      if (open.key) path += (path.empty() ? "" : ".") + printable(*open.key);
    return path;
  }

  void open_key(const std::string& key, const YAML::Mark& mark) {
    Open& section = open_.back();
    section.key = key;
    section.key_where = where(mark);
    const ConfigNode* first = section.node.find(key);
    section.is_duplicate = first != nullptr;
    if (first)
      problems_.push_back(fmt::format("{}: duplicate key ({}), first at {}", path(), section.key_where, first->where));
    if (section.node.keys.size() >= kMaxKeys) refuse(mark, fmt::format("more than {} keys in a section", kMaxKeys));
  }

  void open(Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    check(mark, tag, anchor);
    if (wants_key()) refuse(mark, "a key that is not plain text");
    ConfigNode node;
    node.kind = kind;
    node.where = where(mark);
    open_.push_back({std::move(node), std::nullopt, {}, false});
  }

  void close() {
    ConfigNode node = std::move(open_.back().node);
    open_.pop_back();
    place(std::move(node));
  }

  void add(ConfigNode node, const YAML::Mark& mark) {
    node.where = where(mark);
    place(std::move(node));
  }

  void place(ConfigNode node) {
    if (!source_.command_line) node.file = source_.name;
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (open_.back().node.kind == Kind::list) {
      open_.back().node.items.push_back(std::move(node));
    } else {
      Open& section = open_.back();
      node.where = section.key_where;
      if (!section.is_duplicate) section.node.add(std::move(*section.key), std::move(node));
      section.key.reset();
    }
  }

  std::string_view text_;
  const YamlSource& source_;
  Problems& problems_;
  int documents_ = 0;
  std::vector<Open> open_;
  ConfigNode root_;
};

/// Throws ConfigError for text that yaml-cpp would silently convert or truncate.
void check_characters(const std::string& text, const YamlSource& source) {
  for (size_t at = 0, length = 0, line = 1; at < text.size(); at += length) {
    const char c = text[at];
    length = utf8_character_bytes(text, at);
    const bool is_refused = is_control(c) && c != '\n' && c != '\r' && c != '\t';
    if (length == 0 || is_refused)
      throw ConfigError(fmt::format("{}{}: {}", source.name, source.command_line ? "" : fmt::format(":{}", line),
                                    length == 0 ? "not UTF-8" : "a config may not use control characters"));
    if (c == '\n') ++line;
  }
}

/// The first line, from 0, that leaves a quote open; -1 if there is none.
int line_of_open_quote(std::string_view text) {
  int line = 0;
  for (size_t begin = 0; begin < text.size(); ++line) {
    const std::string_view rest = rest_of_line(text, begin);
    if (scan_yaml_line(rest) == LineEnd::open_quote) return line;
    begin += rest.size() + 1;
  }
  return -1;
}

/// The error text of the parser, or of an open quote or the indentation above the place that it reports.
std::string invalid(std::string_view text, const YamlSource& source, const YAML::Exception& error) {
  const int wrong = std::max(0, error.mark.line), open = line_of_open_quote(text);
  const bool is_open = open >= 0 && open <= wrong;
  const auto indentation = source.command_line || is_open ? std::nullopt : find_bad_indentation(text, wrong);
  if (indentation) return describe(*indentation, source);
  const std::string at = source.command_line ? "" : fmt::format(":{}", (is_open ? open : wrong) + 1);
  return fmt::format("{}{}: invalid YAML: {}", source.name, at,
                     is_open ? std::string(kOpenQuote) : printable(error.msg));
}

}  // namespace

LineEnd scan_yaml_line(std::string_view line) {
  bool at_start = true;  // of a key, value or item
  for (size_t at = 0; at < line.size(); ++at) {
    const char c = line[at];
    const bool before_space = at + 1 == line.size() || is_space(line[at + 1]);
    if (is_space(c)) continue;
    if (c == '#' && (at == 0 || is_space(line[at - 1]))) return LineEnd::comment;
    if (at_start && (c == '"' || c == '\'')) {
      const size_t length = quoted_length(line.substr(at));
      if (length == 0) return LineEnd::open_quote;
      at += length - 1;
      continue;
    }
    at_start = c == '[' || c == '{' || c == ',' || (before_space && (c == ':' || c == '-' || c == '?'));
  }
  return LineEnd::plain;
}

ConfigNode parse_yaml(const std::string& bytes, const YamlSource& source, Problems& problems) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  const std::string text = bytes.substr(bytes.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0);
  check_characters(text, source);
  TreeBuilder builder(text, source, problems);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    throw ConfigError(invalid(text, source, error));
  }
  return builder.take();
}

}  // namespace olmoe
