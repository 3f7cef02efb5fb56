#include "core/text.h"

#include <fmt/format.h>

namespace olmoe {

std::string grouped(int64_t n) {
  auto digits = std::to_string(n);
  const auto first = n < 0 ? 1 : 0;
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > first; at -= 3) digits.insert(digits.begin() + at, ',');
  return digits;
}

std::string counted(int64_t n, const std::string& thing) { return grouped(n) + " " + thing + (n == 1 ? "" : "s"); }

std::string describe_size(int64_t size_bytes) {
  const double mib = static_cast<double>(size_bytes) / (1 << 20);
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

}  // namespace olmoe
