#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

#include "model/config.h"

namespace olmoe {

/// Writes elements [begin, begin + out.numel()) of the flattened global parameter `name` into out (CPU, contiguous,
/// fp32 or float64). Initial values, Hugging Face folders and checkpoints are all such sources, so each serves any
/// layout.
using ParamSource = std::function<void(const std::string& name, int64_t begin, at::Tensor out)>;

/// Norm weights 1; everything else a truncated normal of init_std. A value depends on (seed, name, index) alone. The
/// source throws Error for a name that the model does not have.
ParamSource random_init(const ModelConfig& config, uint64_t seed);

}  // namespace olmoe
