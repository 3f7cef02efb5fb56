#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace olmoe {

/// Advice for a user whose `needed_bytes` (0: unknown) could not be written below `folder`, with the free space there.
std::string disk_advice(const std::string& folder, int64_t needed_bytes);

/// Runs `work`, which writes files below `folder`. Rethrows any exception as a CheckpointError with disk_advice().
void write_to_disk(const std::string& folder, int64_t needed_bytes, const std::function<void()>& work);

}  // namespace olmoe
