#pragma once
#include <cstdint>
#include <string>

namespace olmoe {

/// 6919161856 -> "6,919,161,856".
inline std::string grouped(int64_t n) {
  auto digits = std::to_string(n);
  const auto first = n < 0 ? 1 : 0;
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > first; at -= 3) digits.insert(digits.begin() + at, ',');
  return digits;
}

/// "1 file", "3 files".
inline std::string counted(int64_t n, const std::string& thing) {
  return grouped(n) + " " + thing + (n == 1 ? "" : "s");
}

}  // namespace olmoe
