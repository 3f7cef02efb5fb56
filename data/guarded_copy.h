#pragma once
#include <cstddef>
#include <span>

namespace olmoe {

/// Copies out.size() bytes from a mapping of a file. False where the system could not bring them: the
/// file was cut after it was mapped, or its disk failed. `out` is then partly written.
bool guarded_copy(std::span<std::byte> out, const std::byte* mapping);

}  // namespace olmoe
