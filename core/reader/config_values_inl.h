#pragma once
#include "core/reader/config_reader.h"

/// The templates of config_reader.h, which dispatch on the type of a value to config_values.cpp.
namespace olmoe::config_detail {

// clang-format off
std::string type_words(bool);                ConfigNode write_scalar(bool value);
std::string type_words(int64_t);             ConfigNode write_scalar(int64_t value);
std::string type_words(double);              ConfigNode write_scalar(double value);
std::string type_words(const std::string&);  ConfigNode write_scalar(const std::string& value);
void read_scalar(const ConfigPlace& at, bool& value);
void read_scalar(const ConfigPlace& at, int64_t& value);
void read_scalar(const ConfigPlace& at, double& value);
void read_scalar(const ConfigPlace& at, std::string& value);
// clang-format on

std::string one_of(std::span<const char* const> words);
/// The index of the word at `at`; `renamed`: words of earlier versions. None, and a problem, for any other.
std::optional<size_t> read_word(const ConfigPlace& at, std::span<const char* const> words,
                                std::span<const RenamedKey> renamed);
std::vector<ConfigPlace> read_list(const ConfigPlace& at);

void read_fields(const ConfigPlace& at, const ConfigFields& fields);
ConfigNode write_fields(const ConfigFields& fields);
std::string document_fields(const std::string& prefix, const ConfigFields& fields);

void read_text_into(const ConfigFields& fields, const std::string& text, const std::string& source_name,
                    const std::vector<std::string>& overrides);
/// Returns the problems.
std::vector<std::string> read_saved_into(const ConfigFields& fields, const std::string& text,
                                         std::vector<UnknownSetting>& unknown);
void read_file_into(const ConfigFields& fields, const std::string& path, const std::vector<std::string>& overrides,
                    ConfigNode* tree);
std::vector<std::string> leaf_paths(const ConfigFields& fields);
void check_fields(const std::string& prefix, const ConfigFields& fields, std::vector<std::string>& problems);
void visit_fields(const std::string& prefix, const ConfigFields& fields, const ConfigVisit& visit);
std::string document_table(const ConfigFields& fields);
std::vector<std::string> differences(const ConfigNode& a, const ConfigNode& b);

template <ConfigStruct T>
ConfigFields fields_of(T& config) {
  ConfigFields fields;
  config.fields(fields);
  return fields;
}

template <class T>
std::string type_of() {
  if constexpr (std::is_enum_v<T>) {
    return one_of(EnumNames<T>::names);
  } else if constexpr (kIsOptional<T>) {
    return type_of<typename T::value_type>() + " or null";
  } else if constexpr (kIsVector<T>) {
    return "list of " + type_of<typename T::value_type>();
  } else if constexpr (ConfigStruct<T>) {
    return "section";
  } else {
    return type_words(T{});
  }
}

template <class E>
constexpr std::span<const RenamedKey> renamed_words() {
  if constexpr (requires { EnumNames<E>::renamed; })
    return EnumNames<E>::renamed;
  else
    return {};
}

template <class T>
void read_value(const ConfigPlace& at, T& value) {
  if constexpr (std::is_enum_v<T>) {
    if (const auto index = read_word(at, EnumNames<T>::names, renamed_words<T>())) value = static_cast<T>(*index);
  } else if constexpr (kIsOptional<T>) {
    value.reset();
    if (at.node.kind != ConfigNode::Kind::null) read_value(at, value.emplace());
  } else if constexpr (kIsVector<T>) {
    value.clear();
    for (const ConfigPlace& item : read_list(at)) read_value(item, value.emplace_back());
  } else if constexpr (ConfigStruct<T>) {
    read_fields(at, fields_of(value));
  } else {
    read_scalar(at, value);
  }
}

template <class T>
ConfigNode write_value(T& value) {
  if constexpr (std::is_enum_v<T>) {
    return ConfigNode::scalar(std::string(enum_name(value)));
  } else if constexpr (kIsOptional<T>) {
    return value ? write_value(*value) : ConfigNode{};
  } else if constexpr (kIsVector<T>) {
    ConfigNode list;
    list.kind = ConfigNode::Kind::list;
    for (auto& item : value) list.items.push_back(write_value(item));
    return list;
  } else if constexpr (ConfigStruct<T>) {
    return write_fields(fields_of(value));
  } else {
    return write_scalar(value);
  }
}

template <class T>
std::string nested_rows(const std::string& path, T& value) {
  if constexpr (ConfigStruct<T>) {
    return document_fields(path + ".", fields_of(value));
  } else if constexpr (kIsVector<T> || kIsOptional<T>) {
    typename T::value_type element{};
    return nested_rows(kIsVector<T> ? path + "[]" : path, element);
  } else {
    return {};
  }
}

/// Adds problems for numbers out of range in structs within a value.
template <class T>
void check_nested(const std::string& path, T& value, std::vector<std::string>& problems) {
  if constexpr (ConfigStruct<T>) {
    check_fields(path.empty() ? "" : path + ".", fields_of(value), problems);
  } else if constexpr (kIsVector<T>) {
    for (size_t i = 0; i < value.size(); ++i) check_nested(path + "[" + std::to_string(i) + "]", value[i], problems);
  }
}

template <class T>
std::vector<ConfigPart> parts_of(T& value) {
  std::vector<ConfigPart> parts;
  if constexpr (ConfigStruct<T>) {
    parts.push_back({"", fields_of(value)});
  } else if constexpr (kIsVector<T>) {
    if constexpr (ConfigStruct<typename T::value_type>)
      for (size_t i = 0; i < value.size(); ++i) parts.push_back({"[" + std::to_string(i) + "]", fields_of(value[i])});
  }
  return parts;
}

}  // namespace olmoe::config_detail
