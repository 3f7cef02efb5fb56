#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "core/reader/config_node.h"
#include "core/reader/config_range.h"
#include "core/reader/saved_config.h"

/// Reads YAML into typed structs. A struct lists its fields once,
///   template <class V> void fields(V& v) { v("lr", lr, "peak learning rate"); v.required("steps", steps, "..."); }
/// which is used to read, override, write, document and compare it. Types: bool, int64_t, double, std::string, enums
/// with EnumNames, structs with fields, and std::vector and std::optional of these.
namespace olmoe {

/// `names`: the words of an enum in a config, in the order of its values 0, 1, 2, ...; `renamed` (optional): words of
/// earlier versions.
template <class E>
struct EnumNames;

/// The word of an enum's value.
template <class E>
std::string_view enum_name(E value) {
  return EnumNames<E>::names.at(static_cast<size_t>(value));
}

/// A key or a word of an enum that had another name in earlier versions of the program.
struct RenamedKey {
  std::string_view before, now;
};

/// Whether names of earlier versions are an error, which has the new name, or are accepted.
enum class OldNames { refused, accepted };

/// The state of reading one config: problems found, and all its paths, for hints.
struct ConfigReading {
  std::vector<std::string> problems = {};
  std::vector<std::string> known_paths = {};
  OldNames old_names = OldNames::refused;
  std::vector<UnknownSetting>* unknown = nullptr;  ///< takes unknown keys and words; null: they are problems
};

/// A node of the tree that is being read, with its path for messages.
struct ConfigPlace {
  const ConfigNode& node;
  std::string path;
  ConfigReading& reading;

  /// Adds a problem: "path: expected <what>, got <the node> (where)<hint>".
  void expected(std::string_view what, std::string_view hint = {}) const;
};

struct ConfigPart;

/// A field of a config struct, type-erased and bound to that struct.
struct ConfigField {
  std::string key;
  std::string meaning;
  std::string type;  ///< "integer", "list of text", "one of adamw, sgd"; "section" for a struct
  bool required = false;
  std::function<void(const ConfigPlace&)> read;
  std::function<ConfigNode()> write;
  std::function<std::string(const std::string& path)> nested_rows;  ///< documentation of the fields inside
  std::function<void(const std::string& path, std::vector<std::string>& problems)>
      check;  ///< adds a problem for each number out of range, nested fields included
  std::function<std::vector<ConfigPart>()> parts;  ///< of a struct, or of a list of structs; otherwise none
  std::vector<std::string>* texts = nullptr;       ///< of a list of text
  bool is_per_host = false;
  bool is_data_files = false;

  /// Marks a field that the ranks of a run may have different values of, for it suits their hosts.
  ConfigField& per_host();
  /// Marks a list of text as paths of data files. Per host too, for hosts may keep copies in different folders.
  ConfigField& data_files();
};

/// The visitor for a struct's `fields`, which collects them. A field is returned for its marks.
class ConfigFields {
 public:
  /// An optional field: without it in the file the value stays as it is.
  template <class T>
  ConfigField& operator()(std::string_view key, T& value, std::string_view meaning) {
    return add(key, value, meaning, false);
  }
  /// A field that the file must have.
  template <class T>
  ConfigField& required(std::string_view key, T& value, std::string_view meaning) {
    return add(key, value, meaning, true);
  }
  /// The same for an integer with a range, which values_out_of_range() checks.
  ConfigField& operator()(std::string_view key, int64_t& value, IntegerRange range, std::string_view meaning) {
    return add(key, value, range, meaning, false);
  }
  ConfigField& required(std::string_view key, int64_t& value, IntegerRange range, std::string_view meaning) {
    return add(key, value, range, meaning, true);
  }
  /// The same for a number, or one that may be null.
  ConfigField& operator()(std::string_view key, double& value, NumberRange range, std::string_view meaning);
  ConfigField& operator()(std::string_view key, std::optional<double>& value, NumberRange range,
                          std::string_view meaning);
  /// The field `now` of this struct was called `before` in earlier versions.
  void renamed(std::string_view before, std::string_view now) { renamed_.push_back({before, now}); }
  const std::vector<ConfigField>& list() const { return list_; }
  const std::vector<RenamedKey>& renamed_keys() const { return renamed_; }

 private:
  template <class T>
  ConfigField& add(std::string_view key, T& value, std::string_view meaning, bool required);
  ConfigField& add(std::string_view key, int64_t& value, IntegerRange range, std::string_view meaning, bool required);

  std::vector<ConfigField> list_;
  std::vector<RenamedKey> renamed_;
};

/// A struct within a field.
struct ConfigPart {
  std::string place;  ///< within the field: empty, or "[2]" of a list
  ConfigFields fields;
};

// clang-format off
template <class T>
concept ConfigStruct =
    std::is_class_v<T> && requires(T& config, ConfigFields& visitor) { config.fields(visitor); };
template <class T> inline constexpr bool kIsVector = false;
template <class T> inline constexpr bool kIsVector<std::vector<T>> = true;
template <class T> inline constexpr bool kIsOptional = false;
template <class T> inline constexpr bool kIsOptional<std::optional<T>> = true;
// clang-format on

/// Reads `T` from a YAML file. The file overrides its top-level `base: other.yaml` (relative to the file), and each of
/// `overrides`, path.to.key=value, overrides the file. Throws one ConfigError with every problem, one per line. `tree`,
/// if given, is set to the merged tree, which has where each value came from.
template <ConfigStruct T>
T read_config(const std::string& path, const std::vector<std::string>& overrides = {}, ConfigNode* tree = nullptr);

/// The same from text; `source_name` is used as its path, in messages and for a relative base.
template <ConfigStruct T>
T read_config_text(const std::string& text, const std::string& source_name,
                   const std::vector<std::string>& overrides = {});

/// Reads the text of a config that this or another version wrote: old names are accepted. Throws nothing.
template <ConfigStruct T>
SavedConfig<T> read_saved_config(const std::string& text);

/// YAML that reads back equal to `config`. Throws Error for a number that is not finite.
template <ConfigStruct T>
std::string write_config(const T& config);

/// The numbers of `config` that are out of range, each "train.steps: 0 must be between 1 and 9"; `path` is prepended to
/// the keys.
template <ConfigStruct T>
std::vector<std::string> values_out_of_range(const T& config, const std::string& path = {});

/// A Markdown table of all fields: path, type, default or "required", meaning.
template <ConfigStruct T>
std::string document_config();

/// Is given a field with its path, "evaluation.sets[0].paths", and returns whether to visit the fields inside it too.
using ConfigVisit = std::function<bool(const std::string& path, const ConfigField& field)>;
/// Visits every field, in order.
template <ConfigStruct T>
void visit_fields(T& config, const ConfigVisit& visit);

/// The fields in which two configs differ, each "model.d_model: 256 -> 512".
template <ConfigStruct T>
std::vector<std::string> differing_fields(const T& a, const T& b);

}  // namespace olmoe

#include "core/reader/config_reader_inl.h"
