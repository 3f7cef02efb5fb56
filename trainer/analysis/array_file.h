#pragma once
#include <map>
#include <span>
#include <string>

#include "trainer/analysis/statistic.h"

namespace olmoe {

/// Writes named arrays (int64, int32, float32 or float64, in host memory) as a safetensors file, which is there whole
/// or not at all. Throws FileError, and Error for two arrays of one name.
void write_arrays(const std::string& path, std::span<const NamedArray> arrays,
                  const std::map<std::string, std::string>& metadata);

}  // namespace olmoe
