#pragma once
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// Widths and counts of a config that kernels on a GPU cannot take, ours or LibTorch's: one sentence each, that names
/// the key and what to change. Empty for a config of a CPU. Where LibTorch sets the limit, of version 2.11.
std::vector<std::string> gpu_limits(const Config& config);

}  // namespace olmoe
