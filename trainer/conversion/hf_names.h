#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace olmoe {

/// How the name of a bias of experts ends, a buffer of ours.
inline constexpr std::string_view kBalancingBias = ".moe.router.balancing_bias";

/// Where a tensor of a class of hf_classes() is in our model: a contiguous range of one flattened parameter or buffer.
struct HfTensor {
  std::string hf_name;
  std::vector<int64_t> shape;
  std::string name;     ///< ours
  int64_t first;        ///< element of our flattened global parameter
  bool buffer = false;  ///< no parameter: float32 in every file
};

/// All tensors of a model: names follow from what it has, whatever the class. Each element of our parameters is in
/// exactly one of them, if there is a class that holds the model.
std::vector<HfTensor> hf_tensors(const ModelConfig& config);

}  // namespace olmoe
