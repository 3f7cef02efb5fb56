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

/// Weights of norms are 1, biases 0, all others normals of the standard deviation that model.init gives them, truncated
/// at init_cutoff deviations. A value depends on (seed, name, index) alone. The source throws Error for a name that the
/// model does not have, and for a tensor that is not contiguous in host memory. Source of mitchell and full_megatron:
/// init_weights of OLMo (arXiv 2402.00838); of megatron: scaled_init_method_normal of Megatron-LM (arXiv 1909.08053).
ParamSource random_init(const ModelConfig& config, uint64_t seed);

}  // namespace olmoe
