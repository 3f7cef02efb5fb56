#include <fmt/format.h>

#include <cmath>

#include "core/reader/config_reader.h"

namespace olmoe {
namespace {

std::string range_words(IntegerRange range) {
  constexpr IntegerRange kOpenAbove{0};
  return range.most >= kOpenAbove.most ? fmt::format("at least {}", range.least)
                                       : fmt::format("{} to {}", range.least, range.most);
}

/// "above 0", "at least 0", "0 to 1", "at least 0 and below 1".
std::string range_words(NumberRange range) {
  if (std::isinf(range.most)) return fmt::format("{} {}", range.least_excluded ? "above" : "at least", range.least);
  if (!range.least_excluded && !range.most_excluded) return fmt::format("{} to {}", range.least, range.most);
  return fmt::format("{} {} and {} {}", range.least_excluded ? "above" : "at least", range.least,
                     range.most_excluded ? "below" : "at most", range.most);
}

void check_number(const std::string& path, double value, NumberRange range, std::vector<std::string>& problems) {
  if (!range.contains(value)) problems.push_back(fmt::format("{}: {} must be {}", path, value, range_words(range)));
}

}  // namespace

ConfigField& ConfigFields::operator()(std::string_view key, double& value, NumberRange range,
                                      std::string_view meaning) {
  auto& field = add(key, value, meaning, false);
  field.type += ", " + range_words(range);
  field.check = [&value, range](const std::string& path, std::vector<std::string>& problems) {
    check_number(path, value, range, problems);
  };
  return field;
}

ConfigField& ConfigFields::operator()(std::string_view key, std::optional<double>& value, NumberRange range,
                                      std::string_view meaning) {
  auto& field = add(key, value, meaning, false);
  field.type += ", " + range_words(range);
  field.check = [&value, range](const std::string& path, std::vector<std::string>& problems) {
    if (value) check_number(path, *value, range, problems);
  };
  return field;
}

ConfigField& ConfigFields::add(std::string_view key, int64_t& value, IntegerRange range, std::string_view meaning,
                               bool required) {
  auto& field = add(key, value, meaning, required);
  field.type += ", " + range_words(range);
  field.check = [&value, range](const std::string& path, std::vector<std::string>& problems) {
    if (value < range.least || value > range.most)
      problems.push_back(fmt::format("{}: {} must be between {} and {}", path, value, range.least, range.most));
  };
  return field;
}

namespace config_detail {

void check_fields(const std::string& prefix, const ConfigFields& fields, std::vector<std::string>& problems) {
  for (const ConfigField& field : fields.list()) field.check(prefix + field.key, problems);
}

}  // namespace config_detail
}  // namespace olmoe
