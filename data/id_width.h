#pragma once
#include <cstdint>

#include "data/file_sample.h"

namespace olmoe {

/// Detects a file whose ids are wider than `id_bytes` (2 or 4): every second id is then the upper half of one, zero or
/// small, and the others are not. Returns their width in bytes, 4 or 8; 0 if `id_bytes` may be right, or the sample is
/// shorter than 128 bytes.
int64_t wider_id_bytes(const FileSample& sample, int64_t id_bytes);

}  // namespace olmoe
