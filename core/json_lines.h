#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>
#include <utility>

namespace olmoe {

/// One JSON object under construction, keys in the order given. Doubles in the shortest digits that read back equal;
/// NaN and infinities become null, as JSON has none.
class JsonLine {
 public:
  JsonLine& add(std::string_view key, double value);
  JsonLine& add(std::string_view key, int64_t value);
  JsonLine& add(std::string_view key, std::string_view value);
  JsonLine& add(std::string_view key, const std::vector<int64_t>& values);
  JsonLine& add(std::string_view key, const std::vector<double>& values);
  std::string str() const;  ///< without newline

 private:
  std::string body_;
};

/// A file of JSON lines that is appended to, each line flushed whole.
class JsonLinesFile {
 public:
  /// Opens for appending. `keep_through_step` >= 0 first cuts the file back: lines whose "step" is greater, and
  /// a torn last line, are dropped (atomically, by rename).
  JsonLinesFile(const std::string& path, int64_t keep_through_step);
  ~JsonLinesFile();
  void write(const JsonLine& line);

 private:
  int fd_ = -1;
  std::string path_;
};

}  // namespace olmoe
