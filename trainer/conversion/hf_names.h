#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace olmoe {

/// Where a tensor of Hugging Face's OlmoeForCausalLM is in our model: a contiguous range of one flattened parameter.
struct HfTensor {
  std::string hf_name;
  std::vector<int64_t> shape;
  std::string name;  ///< ours
  int64_t first;     ///< element of our flattened global parameter
};

/// All tensors of a model. Each element of our parameters is in exactly one of them.
std::vector<HfTensor> hf_tensors(const ModelConfig& config);

}  // namespace olmoe
