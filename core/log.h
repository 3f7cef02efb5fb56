#pragma once
#include <fmt/format.h>

#include <string>
#include <string_view>

/// Logging to standard error. Lines are formatted at the call site and spdlog is included in log.cpp only: the headers
/// of LibTorch include another fmt than spdlog was built with.
namespace olmoe::log {

enum class Level { debug, info, warn, error };

/// Adds the rank to every line and silences debug and info lines on ranks other than 0. Call once at start.
void set_rank(int rank, int world_size);
void set_level(Level level);
/// Writes one line and flushes it. Thread-safe.
void write(Level level, std::string_view line);
/// The same on rank 0 alone: for what every rank finds.
void write_once(Level level, std::string_view line);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace olmoe::log
