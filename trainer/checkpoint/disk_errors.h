#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace olmoe {

/// What to do where `needed_bytes` (0: not known) could not be written below `folder`: says what is free there.
std::string disk_advice(const std::string& folder, int64_t needed_bytes);

/// Does `work`, which writes files below `folder`. What fails in it is the disk's or the folder's: it is thrown again
/// as a CheckpointError with disk_advice().
void write_to_disk(const std::string& folder, int64_t needed_bytes, const std::function<void()>& work);

}  // namespace olmoe
