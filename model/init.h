#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

#include "model/config.h"

namespace olmoe {

/// Writes elements [begin, begin + out.numel()) of the flattened global parameter `name` to `out` (CPU, contiguous,
/// fp32 or float64). Initial values, Hugging Face folders and checkpoints are such sources: each serves any layout.
using ParamSource = std::function<void(const std::string& name, int64_t begin, at::Tensor out)>;

/// Norm weights are 1, all others a normal of standard deviation init_std, truncated at init_cutoff deviations. A value
/// depends on (seed, name, index) alone. The source throws Error for a name that the model does not have, and for a
/// tensor that is not contiguous in host memory.
ParamSource random_init(const ModelConfig& config, uint64_t seed);

}  // namespace olmoe
