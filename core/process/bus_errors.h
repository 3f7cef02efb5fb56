#pragma once
#include <cstddef>
#include <span>

/// SIGBUS, with which the system answers a read of a mapped file beyond its end (the file became shorter after it was
/// mapped), or from a disk that failed. A signal belongs to the process, so there is one handler for both answers, and
/// it does not matter which of these is called first.
namespace olmoe {

/// From now on such a read ends this process with a line that names the file: exit code 4 for *.safetensors, else 3.
void explain_bus_errors();

/// Copies out.size() bytes from a mapping of a file. False where the system could not bring them; `out` is then partly
/// written. Any other such read is answered as above from now on.
bool guarded_copy(std::span<std::byte> out, const std::byte* mapping);

}  // namespace olmoe
