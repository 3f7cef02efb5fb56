#pragma once
#include <exception>
#include <string>

#include "core/error.h"

namespace olmoe {

/// What to tell a person of an error: LibTorch's without the frames of its stack; a lack of memory, of host or GPU,
/// with the limit that may be behind it and what needs less.
std::string error_text(const std::exception& error);

/// An Error's own; that of a config for a lack of memory, which a smaller one mends; else internal.
ExitCode exit_code_of(const std::exception& error);

}  // namespace olmoe
