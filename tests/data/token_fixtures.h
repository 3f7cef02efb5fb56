// Token files in a folder of their own that is gone afterwards, and messages of exceptions.
#pragma once
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"

namespace olmoe::test {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "olmoe_data_XXXXXX").string();
    ENSURE(::mkdtemp(name.data()) != nullptr, "cannot make {}", name);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;

  std::string path(const std::string& name) const { return (path_ / name).string(); }

  template <class Id>
  std::string write(const std::string& name, const std::vector<Id>& ids) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(ids.data()),
               static_cast<std::streamsize>(ids.size() * sizeof(Id)));
    file.close();
    ENSURE(file.good(), "cannot write {}", name);
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

/// first, first + 1, ...: every token tells where it came from.
inline std::vector<uint16_t> counting(int64_t count, uint16_t first = 0) {
  std::vector<uint16_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

/// Text of the E that f throws; "" if it throws nothing. Other exceptions pass.
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
