#pragma once
#include "core/reader/config_values_inl.h"

namespace olmoe {

template <class T>
ConfigField& ConfigFields::add(std::string_view key, T& value, std::string_view meaning, bool required) {
  list_.push_back(
      {.key = std::string(key),
       .meaning = std::string(meaning),
       .type = config_detail::type_of<T>(),
       .required = required,
       .read = [&value](const ConfigPlace& at) { config_detail::read_value(at, value); },
       .write = [&value] { return config_detail::write_value(value); },
       .nested_rows = [&value](const std::string& path) { return config_detail::nested_rows(path, value); },
       .check = [&value](const std::string& path,
                         std::vector<std::string>& problems) { config_detail::check_nested(path, value, problems); },
       .parts = [&value] { return config_detail::parts_of(value); }});
  if constexpr (std::is_same_v<T, std::vector<std::string>>) list_.back().texts = &value;
  return list_.back();
}

template <ConfigStruct T>
T read_config(const std::string& path, const std::vector<std::string>& overrides, ConfigNode* tree) {
  T config{};
  config_detail::read_file_into(config_detail::fields_of(config), path, overrides, tree);
  return config;
}

template <ConfigStruct T>
T read_config_text(const std::string& text, const std::string& source_name, const std::vector<std::string>& overrides) {
  T config{};
  config_detail::read_text_into(config_detail::fields_of(config), text, source_name, overrides);
  return config;
}

template <ConfigStruct T>
SavedConfig<T> read_saved_config(const std::string& text) {
  SavedConfig<T> saved;
  saved.problems = config_detail::read_saved_into(config_detail::fields_of(saved.config), text, saved.unknown);
  if (saved.problems.empty()) saved.problems = values_out_of_range(saved.config);
  return saved;
}

template <ConfigStruct T>
std::string write_config(const T& config) {
  T copy = config;  // `fields` hands out references, so it is not const
  return config_detail::write_value(copy).yaml();
}

template <ConfigStruct T>
std::vector<std::string> values_out_of_range(const T& config, const std::string& path) {
  T copy = config;
  std::vector<std::string> problems;
  config_detail::check_nested(path, copy, problems);
  return problems;
}

template <ConfigStruct T>
std::string document_config() {
  T defaults{};
  return config_detail::document_table(config_detail::fields_of(defaults));
}

template <ConfigStruct T>
void visit_fields(T& config, const ConfigVisit& visit) {
  config_detail::visit_fields("", config_detail::fields_of(config), visit);
}

template <ConfigStruct T>
std::vector<std::string> differing_fields(const T& a, const T& b) {
  T copy_a = a, copy_b = b;
  return config_detail::differences(config_detail::write_value(copy_a), config_detail::write_value(copy_b));
}

}  // namespace olmoe
