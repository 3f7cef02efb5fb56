#pragma once
#include <cstddef>
#include <span>

/// SIGBUS: the signal for a read of a mapped file beyond its end (it was truncated after it was mapped), or from a disk
/// that failed. Both functions install the one handler of the process; their order does not matter.
namespace olmoe {

/// Makes such a read end the process with a line that names the file and exit code 4 for *.safetensors, else 3.
void explain_bus_errors();

/// Copies out.size() bytes from a mapping of a file. Returns false if that raised SIGBUS; `out` is then partly written.
/// Any other such read ends the process as above.
bool guarded_copy(std::span<std::byte> out, const std::byte* mapping);

}  // namespace olmoe
