#include "parallel/error_text.h"

#include <c10/util/Exception.h>

#include <cerrno>
#include <new>
#include <string_view>

#include "core/process/process_limits.h"

namespace olmoe {
namespace {

std::string message_of(const std::exception& error) {
  const auto* from_torch = dynamic_cast<const c10::Error*>(&error);
  return from_torch != nullptr ? from_torch->what_without_backtrace() : error.what();
}

/// LibTorch has no error type for a failed allocation of host memory.
bool is_lack_of_memory(const std::exception& error) {
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
         dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         (dynamic_cast<const c10::Error*>(&error) != nullptr &&
          message_of(error).find("can't allocate memory") != std::string::npos);
}

}  // namespace

std::string error_text(const std::exception& error) {
  const auto message = message_of(error);
  if (!is_lack_of_memory(error)) return message;
  return fmt::format(
      "not enough memory: {}{}. --dry-run prints what a rank needs; a smaller train.micro_batch_size, "
      "train.recompute, and more ranks need less",
      message.substr(0, message.find('\n')), limit_behind(ENOMEM));
}

ExitCode exit_code_of(const std::exception& error) {
  if (const auto* ours = dynamic_cast<const Error*>(&error)) return ours->code();
  return is_lack_of_memory(error) ? ExitCode::config : ExitCode::internal;
}

}  // namespace olmoe
