#include <fmt/format.h>

#include "core/reader/config_reader.h"

namespace olmoe {
namespace {

std::string range_words(IntegerRange range) {
  constexpr IntegerRange kOpenAbove{0};
  return range.most >= kOpenAbove.most ? fmt::format("at least {}", range.least)
                                       : fmt::format("{} to {}", range.least, range.most);
}

}  // namespace

void ConfigFields::add(std::string_view key, int64_t& value, IntegerRange range, std::string_view meaning,
                       bool required) {
  add(key, value, meaning, required);
  list_.back().type += ", " + range_words(range);
  list_.back().check = [&value, range](const std::string& path, std::vector<std::string>& problems) {
    if (value < range.least || value > range.most)
      problems.push_back(fmt::format("{}: {} must be between {} and {}", path, value, range.least, range.most));
  };
}

namespace config_detail {

void check_fields(const std::string& prefix, const ConfigFields& fields, std::vector<std::string>& problems) {
  for (const ConfigField& field : fields.list()) field.check(prefix + field.key, problems);
}

}  // namespace config_detail
}  // namespace olmoe
