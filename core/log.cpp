#include "core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/ansicolor_sink.h>

#include <algorithm>
#include <memory>
#include <mutex>

namespace olmoe::log {
namespace {

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

/// The logger of this process.
class Logger {
 public:
  Logger() : spdlog_("olmoe", std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>()) {
    spdlog_.flush_on(spdlog::level::trace);
    apply();
  }

  void set_rank(int rank, int world_size) {
    const std::lock_guard lock(mutex_);
    rank_ = rank;
    world_size_ = world_size;
    apply();
  }

  void set_level(Level level) {
    const std::lock_guard lock(mutex_);
    level_ = level;
    apply();
  }

  bool is_rank_0() {
    const std::lock_guard lock(mutex_);
    return rank_ == 0;
  }

  void write(Level level, std::string_view line) {
    spdlog_.log(spdlog_level(level), spdlog::string_view_t(line.data(), line.size()));
  }

 private:
  void apply() {
    const std::string rank = world_size_ > 1 ? fmt::format(" rank {}", rank_) : "";
    spdlog_.set_pattern(fmt::format("%Y-%m-%d %H:%M:%S.%e{} %^%l%$ %v", rank));
    const Level least = rank_ == 0 ? level_ : std::max(level_, Level::warn);
    spdlog_.set_level(spdlog_level(least));
  }

  std::mutex mutex_;
  int rank_ = 0, world_size_ = 1;
  Level level_ = Level::info;
  spdlog::logger spdlog_;
};

Logger& logger() {
  static Logger logger;
  return logger;
}

}  // namespace

void set_rank(int rank, int world_size) { logger().set_rank(rank, world_size); }
void set_level(Level level) { logger().set_level(level); }
void write(Level level, std::string_view line) { logger().write(level, line); }
void write_once(Level level, std::string_view line) {
  if (logger().is_rank_0()) write(level, line);
}

}  // namespace olmoe::log
