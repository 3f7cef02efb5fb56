#pragma once
#include <fmt/format.h>

#include <string>
#include <string_view>

/// Logging to standard error. Lines are formatted at the call site: spdlog is known to log.cpp
/// alone, because LibTorch's headers bring another fmt than spdlog was built with.
namespace olmoe::log {

enum class Level { debug, info, warn, error };

/// Names this process in every line and silences `info` on other ranks than 0. Call once at start.
void set_rank(int rank, int world_size);
void set_level(Level level);
/// Writes one line and flushes it. Thread-safe.
void write(Level level, std::string_view line);

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
