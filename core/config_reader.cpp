#include "core/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <sstream>

#include "core/files.h"

namespace olmoe {
namespace {

using Kind = ConfigNode::Kind;
using Problems = std::vector<std::string>;

// What a config never needs, and hostile text would use to exhaust stack, memory or time.
constexpr int64_t kMaxSizeBytes = 4 << 20;
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxKeys = 1000;
constexpr size_t kMaxBases = 16;
constexpr size_t kMaxProblems = 200;

/// Builds our tree from the parser's events, which still show duplicate keys, anchors and tags.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string source, bool has_lines, Problems& problems)
      : source_(std::move(source)), has_lines_(has_lines), problems_(problems) {}

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
  /// A list or section whose end has not come yet; the key whose value is next, and the line of
  /// that key.
  struct Open {
    ConfigNode node;
    std::optional<std::string> key;
    std::string key_where;
    bool is_duplicate = false;
  };

  std::string where(const YAML::Mark& mark) const {
    return has_lines_ ? fmt::format("{}:{}", source_, mark.line + 1) : source_;
  }

  [[noreturn]] void refuse(const YAML::Mark& mark, std::string_view what) const {
    throw ConfigError(fmt::format("{}: a config may not use {}", where(mark), what));
  }

  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) refuse(mark, "an anchor");
    if (!tag.empty() && tag != "?" && tag != "!") refuse(mark, "a tag");
    if (open_.size() >= kMaxDepth) refuse(mark, fmt::format("more than {} levels", kMaxDepth));
  }

  bool wants_key() const {
    return !open_.empty() && open_.back().node.kind == Kind::section && !open_.back().key;
  }

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
      problems_.push_back(fmt::format("{}: duplicate key ({}), first at {}", path(),
                                      section.key_where, first->where));
    if (section.node.keys.size() >= kMaxKeys)
      refuse(mark, fmt::format("more than {} keys in a section", kMaxKeys));
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

  std::string source_;
  bool has_lines_;
  Problems& problems_;
  int documents_ = 0;
  std::vector<Open> open_;
  ConfigNode root_;
};

/// Length of the UTF-8 character at `at`, or 0 where there is none: bad bytes, overlong, surrogate.
size_t character_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  const size_t length = lead < 0x80   ? 1
                        : lead < 0xc2 ? 0
                        : lead < 0xe0 ? 2
                        : lead < 0xf0 ? 3
                        : lead < 0xf5 ? 4
                                      : 0;
  if (at + length > text.size()) return 0;
  for (size_t i = at + 1; i < at + length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  if (length < 3) return length;
  const unsigned char second = byte(at + 1);
  const bool is_outside = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second >= 0xa0) ||
                          (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second >= 0x90);
  return is_outside ? 0 : length;
}

/// Throws ConfigError on text that yaml-cpp would silently convert or cut.
void check_characters(const std::string& text, const std::string& source) {
  if (static_cast<int64_t>(text.size()) > kMaxSizeBytes)
    throw ConfigError(fmt::format("{}: a config may not be over {} bytes", source, kMaxSizeBytes));
  for (size_t at = 0, length = 0, line = 1; at < text.size(); at += length) {
    const char c = text[at];
    length = character_length(text, at);
    const bool is_control =
        (c >= 0 && c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f;
    if (length == 0 || is_control)
      throw ConfigError(
          fmt::format("{}:{}: {}", source, line,
                      length == 0 ? "not UTF-8" : "a config may not use control characters"));
    if (c == '\n') ++line;
  }
}

ConfigNode parse(const std::string& text, const std::string& source, bool has_lines,
                 Problems& problems) {
  check_characters(text, source);
  TreeBuilder builder(source, has_lines, problems);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    const std::string line = has_lines ? fmt::format(":{}", error.mark.line + 1) : "";
    throw ConfigError(fmt::format("{}{}: invalid YAML: {}", source, line, printable(error.msg)));
  }
  return builder.take();
}

/// `named_at`: where a config names this file as its base; empty for the file that the user names.
std::string read_file(const std::string& path, const std::string& named_at = {}) {
  try {
    return read_text(path, kMaxSizeBytes);
  } catch (const Error& error) {
    throw ConfigError(named_at.empty() ? error.what()
                                       : fmt::format("base: {} ({})", error.what(), named_at));
  }
}

/// The tree of a config and of its bases. `chain`: the files that led here, the first one named by
/// the user.
ConfigNode load(const std::string& text, const std::vector<std::string>& chain,
                Problems& problems) {
  const std::string& source = chain.back();
  ConfigNode root = parse(text, source, true, problems);
  if (root.kind == Kind::null) root = ConfigNode::section();
  if (root.kind != Kind::section)
    throw ConfigError(source + ": a config is a section: lines of 'key: value'");
  root.where = source;
  const auto key = std::find(root.keys.begin(), root.keys.end(), "base");
  if (key == root.keys.end()) return root;

  const auto item = root.items.begin() + (key - root.keys.begin());
  const ConfigNode base = *item;
  root.keys.erase(key);
  root.items.erase(item);
  if (base.kind != Kind::scalar)
    throw ConfigError(fmt::format("base: expected the path of a file ({})", base.where));
  const auto path =
      (std::filesystem::path(source).parent_path() / base.text).lexically_normal().string();
  const bool is_cycle = std::any_of(chain.begin(), chain.end(), [&](const std::string& earlier) {
    std::error_code ignored;  // a missing file is no cycle, and reading it says what is wrong
    return std::filesystem::equivalent(path, earlier, ignored);
  });
  std::vector<std::string> longer = chain;
  longer.push_back(path);
  if (is_cycle || longer.size() > kMaxBases)
    throw ConfigError(fmt::format("base: {}: {} ({})", is_cycle ? "a cycle" : "too many bases",
                                  fmt::join(longer, " -> "), base.where));
  ConfigNode tree = load(read_file(path, base.where), longer, problems);
  tree.merge(std::move(root));
  tree.where = source;
  return tree;
}

/// `a.b=value` as the tree {a: {b: value}}, ready to be merged.
ConfigNode parse_override(const std::string& text, Problems& problems) {
  constexpr std::string_view kWhere = "command line";
  const size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
  };
  const bool well_formed =
      equals != std::string::npos && equals + 1 < text.size() && !path.empty() &&
      std::all_of(path.begin(), path.end(), is_plain) && path.front() != '.' &&
      path.back() != '.' && path.find("..") == std::string::npos &&
      static_cast<size_t>(std::count(path.begin(), path.end(), '.')) < kMaxDepth;
  if (!well_formed)
    throw ConfigError(fmt::format("{}: expected path.to.key=value ({})", printable(text), kWhere));
  ConfigNode node = parse(text.substr(equals + 1), std::string(kWhere), false, problems);
  node.where = kWhere;
  for (size_t end = path.size(); end != std::string::npos && end > 0;) {
    const size_t dot = path.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    ConfigNode section = ConfigNode::section(std::string(kWhere));
    section.add(path.substr(begin, end - begin), std::move(node));
    node = std::move(section);
    end = dot;
  }
  return node;
}

void read_into(const ConfigFields& fields, const std::string& text, const std::string& source,
               const std::vector<std::string>& overrides, Problems& problems) {
  std::optional<ConfigNode> tree;
  const auto noting = [&problems](const auto& step) {
    try {
      step();
    } catch (const ConfigError& error) {
      problems.push_back(error.what());
    }
  };
  noting([&] { tree = load(text, {source}, problems); });
  for (const std::string& text_of_edit : overrides)
    noting([&] {
      ConfigNode edit = parse_override(text_of_edit, problems);
      if (tree) tree->merge(std::move(edit));
    });
  // Of a file that did not parse, only that is said: its fields would all be missing.
  if (tree) config_detail::read_fields({*tree, "", problems}, fields);
}

}  // namespace

namespace config_detail {

void read_text_into(const ConfigFields& fields, const std::string& text,
                    const std::string& source_name, const std::vector<std::string>& overrides) {
  Problems problems;
  read_into(fields, text, source_name, overrides, problems);
  if (problems.empty()) return;
  const size_t more = problems.size() - std::min(problems.size(), kMaxProblems);
  problems.resize(problems.size() - more);
  if (more > 0) problems.push_back(fmt::format("... and {} more problems", more));
  throw ConfigError(fmt::format("{}", fmt::join(problems, "\n")));
}

void read_file_into(const ConfigFields& fields, const std::string& path,
                    const std::vector<std::string>& overrides) {
  read_text_into(fields, read_file(path), path, overrides);
}

}  // namespace config_detail
}  // namespace olmoe
