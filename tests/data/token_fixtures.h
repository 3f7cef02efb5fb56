// Token files in a temporary folder, and messages of exceptions.
#pragma once
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/temp_folder.h"

namespace olmoe::test {

class TokenFolder : public TempFolder {
 public:
  std::string path(const std::string& name) const { return *this / name; }

  template <class Id>
  std::string write(const std::string& name, const std::vector<Id>& ids) const {
    return add(name, {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(Id)});
  }
};

/// first, first + 1, ...: every token shows its position.
inline std::vector<uint16_t> counting(int64_t count, uint16_t first = 0) {
  std::vector<uint16_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

/// Text of the E that f throws; "" if it throws nothing. Other exceptions propagate.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

}  // namespace olmoe::test
