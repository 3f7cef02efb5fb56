#pragma once
#include <exception>
#include <string>

#include "core/error.h"

namespace olmoe {

/// The message of an error for users: without the stack trace of LibTorch's errors; for a lack of host or GPU memory
/// with the limit that may be its cause, and what needs less.
std::string error_text(const std::exception& error);

/// The exit code of an Error; ExitCode::config for a lack of memory, which a smaller config solves; else internal.
ExitCode exit_code_of(const std::exception& error);

}  // namespace olmoe
