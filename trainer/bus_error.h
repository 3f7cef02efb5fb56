#pragma once

namespace olmoe {

/// From now on a read of a mapped file beyond its end (the file became shorter meanwhile, or its disk failed), which
/// the system answers with SIGBUS, ends this process with a line that names the file: exit code 4 for *.safetensors,
/// else 3.
void explain_bus_errors();

}  // namespace olmoe
