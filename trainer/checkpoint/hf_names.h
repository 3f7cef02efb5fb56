#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace olmoe {

/// The place of a tensor of Hugging Face's OlmoeForCausalLM in ours: a contiguous range of one flattened parameter.
struct HfTensor {
  std::string hf_name;
  std::vector<int64_t> shape;
  std::string name;  ///< ours
  int64_t first;     ///< element of our flattened global parameter
};

/// The map for a model: each of our elements is in exactly one entry.
std::vector<HfTensor> hf_tensors(const ModelConfig& config);

}  // namespace olmoe
