#pragma once
#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace olmoe {

/// Whether a block's window hides a key of the run's sequences.
bool hides_keys(const Config& config);

/// Widths and counts of a config that a GPU's kernels, ours or those of LibTorch 2.11, do not support: one sentence
/// each that names the key and what to change. Empty for a config that trains on a CPU.
std::vector<std::string> gpu_limits(const Config& config);

}  // namespace olmoe
