#pragma once
#include <cstdint>

#include "data/file_sample.h"

namespace olmoe {

/// How many bytes an id is wide, 4 or 8, in a file that was read as narrower ids: every second id
/// is then the upper half of one, zero or nearly so, and the others are not. 0 where nothing speaks
/// against `id_bytes`, or the sample is shorter than 128 bytes.
int64_t wider_id_bytes(const FileSample& sample, int64_t id_bytes);

}  // namespace olmoe
