#include "core/files/json_lines.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "core/files/files.h"
#include "core/log.h"

namespace olmoe {
namespace {

std::string quoted(std::string_view text) {
  using nlohmann::json;
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  std::array<char, 32> digits;
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), result.ptr};
}

std::string number(int64_t value) { return std::to_string(value); }

template <class T>
std::string array_text(const std::vector<T>& values) {
  std::string text;
  for (const T value : values) text += (text.empty() ? "" : ",") + number(value);
  return "[" + text + "]";
}

/// Lists within lists of `shape`, of the numbers from `next` on, which is moved behind them.
std::string nested_text(const int64_t*& next, std::span<const int64_t> shape) {
  if (shape.empty()) return number(*next++);
  std::string text;
  for (int64_t i = 0; i < shape.front(); ++i) text += (i > 0 ? "," : "") + nested_text(next, shape.subspan(1));
  return "[" + text + "]";
}

enum class Fate { kept, dropped, damaged };

Fate fate_of(std::string_view line, int64_t keep_through_step) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Fate::damaged;
  const auto step = json.find("step");
  const bool past = keep_through_step >= 0 && step != json.end() && step->is_number_integer() &&
                    step->get<int64_t>() > keep_through_step;
  return past ? Fate::dropped : Fate::kept;
}

/// The lines of a file, sorted by their fate when it is opened.
struct CutBack {
  CutBack(std::string_view text, int64_t keep_through_step) {
    int64_t number = 0;
    for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const auto line = text.substr(begin, end - begin);
      const auto fate = fate_of(line, keep_through_step);
      ++number;
      if (fate == Fate::kept) kept.append(last = line) += '\n';
      if (fate == Fate::damaged) damaged.append(line) += '\n';
      if (fate == Fate::damaged && num_damaged++ == 0) first_damaged = number;
    }
  }
  std::string kept, damaged;  // whole lines
  std::string_view last;      // kept line
  int64_t num_damaged = 0, first_damaged = 0;
};

/// Truncates the file as JsonLinesFile documents, opens it for appending and sets `last_kept`.
FileDescriptor open_cut_back(const std::string& path, int64_t keep_through_step, std::string& last_kept) {
  std::error_code ignored;  // opening the file below reports the error
  if (std::filesystem::is_regular_file(path, ignored)) {
    const std::string text = read_text(path);
    const CutBack lines(text, keep_through_step);
    last_kept = lines.last;
    if (lines.num_damaged > 0) {
      FileDescriptor(path + ".damaged", O_WRONLY | O_CREAT | O_APPEND)
          .write_all(std::as_bytes(std::span(lines.damaged)));
      log::warn("{}: {} lines are not JSON objects, the first is line {}: moved to {}.damaged", path, lines.num_damaged,
                lines.first_damaged, path);
    }
    if (lines.kept.size() != text.size()) write_text_atomic(path, lines.kept);
  }
  return FileDescriptor(path, O_WRONLY | O_CREAT | O_APPEND);
}

}  // namespace

JsonLine& JsonLine::add_text(std::string_view key, std::string_view json) {
  if (!body_.empty()) body_ += ',';
  body_.append(quoted(key)).append(":").append(json);
  return *this;
}

JsonLine& JsonLine::add(std::string_view key, double value) { return add_text(key, number(value)); }

JsonLine& JsonLine::add(std::string_view key, int64_t value) { return add_text(key, number(value)); }

JsonLine& JsonLine::add(std::string_view key, std::string_view value) { return add_text(key, quoted(value)); }

JsonLine& JsonLine::add(std::string_view key, const std::vector<int64_t>& values) {
  return add_text(key, array_text(values));
}

JsonLine& JsonLine::add(std::string_view key, const std::vector<double>& values) {
  return add_text(key, array_text(values));
}

JsonLine& JsonLine::add(std::string_view key, const std::vector<int64_t>& values, std::span<const int64_t> shape) {
  const auto numel = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  ENSURE(numel == std::ssize(values), "{}: {} numbers for lists of {}", key, values.size(), numel);
  const int64_t* next = values.data();
  return add_text(key, nested_text(next, shape));
}

std::string JsonLine::str() const { return "{" + body_ + "}"; }

JsonLinesFile::JsonLinesFile(const std::string& path, int64_t keep_through_step)
    : file_(open_cut_back(path, keep_through_step, last_kept_)) {}

void JsonLinesFile::write(const JsonLine& line) {
  waiting_.push_back(line.str() + "\n");
  flush();
}

size_t JsonLinesFile::flush() {
  for (; !waiting_.empty(); waiting_.pop_front()) {
    try {
      cut_back();
      cut_to_ = file_.size_bytes();
      file_.write_all(std::as_bytes(std::span(waiting_.front())));
      cut_to_.reset();
    } catch (const Error& error) {
      problem_ = error.what();
      try {
        cut_back();
      } catch (const FileError&) {
        return waiting_.size();  // nothing is written behind it before it is cut
      }
      return waiting_.size();
    }
  }
  problem_.clear();
  return 0;
}

void JsonLinesFile::cut_back() {
  if (cut_to_) file_.truncate(*cut_to_);
  cut_to_.reset();
}

}  // namespace olmoe
