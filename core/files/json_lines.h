#pragma once
#include <concepts>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files/file_descriptor.h"

namespace olmoe {

/// Builds one JSON object; keys stay in the order of the calls. Doubles have the shortest digits that read back equal;
/// NaN and infinities become null, which JSON lacks; bytes that are not UTF-8 become U+FFFD.
class JsonLine {
 public:
  JsonLine& add(std::string_view key, double value);
  JsonLine& add(std::string_view key, int64_t value);
  template <std::integral T>
  JsonLine& add(std::string_view key, T value) {
    return add(key, static_cast<int64_t>(value));
  }
  JsonLine& add(std::string_view key, std::string_view value);
  JsonLine& add(std::string_view key, const std::vector<int64_t>& values);
  JsonLine& add(std::string_view key, const std::vector<double>& values);
  /// Lists within lists of that shape; `values` are their numbers in order.
  JsonLine& add(std::string_view key, const std::vector<int64_t>& values, std::span<const int64_t> shape);
  std::string str() const;  ///< without newline

 private:
  JsonLine& add_text(std::string_view key, std::string_view json);

  std::string body_;
};

/// A file of JSON lines, open for appending. Each line is written with one call.
class JsonLinesFile {
 public:
  /// Opens for appending. First truncates the file (atomically, by rename): an incomplete last line is dropped, and if
  /// keep_through_step >= 0 lines with a greater "step". Other lines that are not JSON objects are moved to
  /// `path`.damaged, with a warning. Throws Error for files that cannot be read or written.
  JsonLinesFile(const std::string& path, int64_t keep_through_step);
  /// Appends a line. If that fails, it waits in memory until the next call, which first writes what waits, in order. A
  /// part of it that was written is cut off before anything else is written.
  void write(const JsonLine& line);
  /// Tries again to write the lines that wait. Returns how many wait after that.
  size_t flush();
  size_t waiting() const { return waiting_.size(); }
  /// Why lines wait; empty if none does.
  const std::string& problem() const { return problem_; }
  /// The last line that was kept when the file was opened; empty if there is none.
  const std::string& last_kept() const { return last_kept_; }

 private:
  void cut_back();

  std::string last_kept_;
  FileDescriptor file_;
  std::optional<int64_t> cut_to_;  // size of the file without the part of a line that is written
  std::deque<std::string> waiting_;
  std::string problem_;
};

}  // namespace olmoe
